"""Random changes of light and colour."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from detectron2.data import transforms as T
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


class ColorJitter(T.Augmentation):
    """Brightness, contrast, saturation and hue, each changed in half of the images.

    Args:
        brightness: Largest shift, in steps of 0..255.
        contrast: Largest relative change of the distance to black.
        saturation: Largest relative change.
        hue: Largest turn, in degrees.
        image_format: "RGB" or "BGR", the order of the channels.
    """

    def __init__(
        self,
        *,
        brightness: float = 32,
        contrast: float = 0.5,
        saturation: float = 0.5,
        hue: float = 18,
        image_format: str = "BGR",
    ) -> None:
        super().__init__()
        if image_format not in _TO_HSV:
            raise ValueError(f"colours can be changed in RGB and BGR images; got {image_format!r}")
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.hue, self.image_format = saturation, hue, image_format

    def get_transform(self, image: Picture) -> T.Transform:
        """Draw one change."""

        def drawn(largest: float) -> float:
            amount, chosen = np.random.uniform(-largest, largest), np.random.random() < 0.5
            return float(amount) if chosen else 0.0

        shift, gain = drawn(self.brightness), 1 + drawn(self.contrast)
        saturation, hue = 1 + drawn(self.saturation), drawn(self.hue)

        def change(picture: Picture) -> Picture:
            lit = _clipped(picture.astype(np.float32) * gain + shift)
            return _change_hsv(lit, saturation, hue, self.image_format)

        return T.ColorTransform(change)


_TO_HSV = {"RGB": cv2.COLOR_RGB2HSV, "BGR": cv2.COLOR_BGR2HSV}
_FROM_HSV = {"RGB": cv2.COLOR_HSV2RGB, "BGR": cv2.COLOR_HSV2BGR}


def _change_hsv(picture: Picture, saturation: float, hue: float, order: str) -> Picture:
    if saturation == 1 and hue == 0:
        return picture
    hsv: NDArray[Any] = cv2.cvtColor(picture, _TO_HSV[order]).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + hue / 2) % 180  # OpenCV keeps half degrees in a byte
    hsv[..., 1] *= saturation
    return np.asarray(cv2.cvtColor(_clipped(hsv), _FROM_HSV[order]))


def _clipped(values: NDArray[Any]) -> Picture:
    picture: Picture = np.clip(values, 0, 255).astype(np.uint8)
    return picture
