"""The changes of size, place and color that ``INPUT`` describes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
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
            raise ValueError(f"colors can be changed in RGB and BGR images; got {image_format!r}")
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


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Crop, resize, jitter and flip, in their order; only a resize where nothing is trained.

    With this project's keys at their defaults they are Detectron2's own, drawn in the same order.
    """
    if not is_train:
        return list(build_augmentation(cfg, is_train=False))
    node = cfg.INPUT
    if node.SCALE_JITTER.ENABLED:
        steps = _scale_jitter(cfg)
    else:
        steps = [T.ResizeShortestEdge(*_train_sizes(cfg))]
        if node.CROP.ENABLED:
            steps.insert(len(steps) if node.CROP.AFTER_RESIZE else 0, _crop(cfg))
    if node.COLOR_JITTER.ENABLED:
        steps.append(_color_jitter(cfg))
    if node.RANDOM_FLIP not in ("none", "horizontal", "vertical"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP must be none, horizontal or vertical; got {node.RANDOM_FLIP!r}"
        )
    if node.RANDOM_FLIP != "none":
        horizontal = node.RANDOM_FLIP == "horizontal"
        steps.append(T.RandomFlip(horizontal=horizontal, vertical=not horizontal))
    return steps


def _train_sizes(cfg: CfgNode) -> tuple[tuple[int, ...], int, str]:
    node = cfg.INPUT
    return node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING


def _scale_jitter(cfg: CfgNode) -> list[T.Augmentation]:
    """Any scale of a range, then a window of one size, filled up where the image is smaller."""
    node = cfg.INPUT.SCALE_JITTER
    height, width = node.SIZE
    scale = T.ResizeScale(node.MIN_SCALE, node.MAX_SCALE, height, width)
    return [scale, T.FixedSizeCrop((height, width), seg_pad_value=_ignored(cfg))]


def _crop(cfg: CfgNode) -> T.Augmentation:
    node = cfg.INPUT.CROP
    return T.RandomCrop_CategoryAreaConstraint(
        node.TYPE, node.SIZE, node.SINGLE_CATEGORY_MAX_AREA, _ignored(cfg)
    )


def _color_jitter(cfg: CfgNode) -> ColorJitter:
    node = cfg.INPUT.COLOR_JITTER
    return ColorJitter(
        brightness=node.BRIGHTNESS,
        contrast=node.CONTRAST,
        saturation=node.SATURATION,
        hue=node.HUE,
        image_format=cfg.INPUT.FORMAT,
    )


def _ignored(cfg: CfgNode) -> int:
    return int(cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE)
