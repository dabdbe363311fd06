"""Pixels: enlarging small pictures, lines between segments, colours laid over an image."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.drawing.colors import RGB
from freqfusion.drawing.content import Mask, Picture

_SHORT_SIDE = 384
_LONG_SIDE = 1536
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])

T = TypeVar("T", bound=np.generic)


def enlargement(height: int, width: int) -> int:
    """The whole factor by which a picture is drawn larger, so that names in it can be read.

    The shorter side gets 384 pixels or a little more, the longer one no more than 1536.
    """
    short, long = sorted((height, width))
    return max(1, min(math.ceil(_SHORT_SIDE / short), _LONG_SIDE // long))


def enlarge_image(image: Picture, factor: int) -> Picture:
    """A photo, smoothly."""
    if factor == 1:
        return image.copy()
    height, width = image.shape[:2]
    size = width * factor, height * factor
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).copy()


def enlarge_map(values: NDArray[T], factor: int) -> NDArray[T]:
    """A map of labels or a mask, by repetition: each pixel becomes a square."""
    return values if factor == 1 else values.repeat(factor, axis=0).repeat(factor, axis=1)


def line_width(height: int, width: int) -> int:
    """Of a contour in a picture of this size."""
    return max(2, round(min(height, width) / 500))


def contours(values: NDArray[Any], width: int) -> Mask:
    """The pixels along the lines where neighbours in a map differ; lines are ``width`` wide."""
    lines: Mask = np.zeros(values.shape, dtype=np.bool_)
    across = values[:, 1:] != values[:, :-1]
    down = values[1:] != values[:-1]
    lines[:, :-1] |= across
    lines[:-1] |= down
    if width > 1:
        lines[:, 1:] |= across
        lines[1:] |= down
    for _ in range((width - 1) // 2):
        lines = grown(lines)
    return lines


def grown(mask: Mask) -> Mask:
    """The mask and the four neighbours of its pixels."""
    result = mask.copy()
    result[1:] |= mask[:-1]
    result[:-1] |= mask[1:]
    result[:, 1:] |= mask[:, :-1]
    result[:, :-1] |= mask[:, 1:]
    return result


def lay_over(picture: Picture, where: Mask, color: RGB | Picture, opacity: float) -> None:
    """Mix a colour, or those of another picture, into ``picture`` where the mask is set."""
    above = np.asarray(color)[where] if isinstance(color, np.ndarray) else np.asarray(color)
    mixed = (1 - opacity) * picture[where] + opacity * above
    picture[where] = np.round(mixed).astype(np.uint8)


def dimmed(image: Picture) -> Picture:
    """A dark grey version of the image, as the ground of an error map."""
    grey = image @ _GREY_WEIGHTS
    return np.repeat(np.round(18 + 0.36 * grey)[..., None], 3, axis=2).astype(np.uint8)
