"""Text in pictures: it is outlined, never leaves the picture, and finds a free place."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from freqfusion.drawing.colors import BLACK, RGB, WHITE
from freqfusion.drawing.content import Mask, Picture

Rectangle = tuple[int, int, int, int]
_LEAST_SIZE = 7
_GRID = 192
# Parts of a text's rectangle: how much may lie on other text, and how much its own segment needs.
_MOST_OVERLAP = 0.12
_LEAST_COVER = 0.3


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[int, int]:
    """(width, height) that a line of text takes, with its outline."""
    left, _, right, _ = font(size).getbbox(text or " ")
    edge = 2 * outline_width(size)
    return math.ceil(right - min(left, 0)) + edge, math.ceil(1.2 * size) + edge


def outline_width(size: int) -> int:
    """Of text of a size."""
    return max(1, round(size / 9))


def fitting(text: str, size: int, width: int) -> tuple[str, int]:
    """The text and the size at which it is no wider than ``width``: smaller first, then cut."""
    while size > _LEAST_SIZE and text_size(text, size)[0] > width:
        size -= 1
    if text_size(text, size)[0] <= width:
        return text, size
    for length in range(len(text) - 1, 0, -1):
        cut = text[:length].rstrip() + "…"
        if text_size(cut, size)[0] <= width:
            return cut, size
    return "", size


def name_size(height: int, width: int) -> int:
    """Size of names in a picture of this size."""
    return max(11, round(min(height, width) / 27))


def write(
    picture: Picture,
    text: str,
    place: tuple[int, int],
    size: int,
    *,
    ink: RGB = WHITE,
    outline: RGB | None = BLACK,
) -> Rectangle:
    """Write one line with its corner at ``place`` = (left, top), moved and cut to fit the picture.

    Returns the rectangle (left, top, right, bottom) of the text.
    """
    high, wide = picture.shape[:2]
    text, size = fitting(text, size, wide)
    width, height = text_size(text, size)
    left = max(0, min(place[0], wide - width))
    top = max(0, min(place[1], high - height))
    if text:
        page = Image.fromarray(picture)
        edge = outline_width(size)
        ImageDraw.Draw(page).text(
            (left + edge, top + height // 2),
            text,
            fill=ink,
            font=font(size),
            anchor="lm",
            stroke_width=edge if outline else 0,
            stroke_fill=outline,
        )
        picture[:] = np.asarray(page)
    return left, top, min(left + width, wide), min(top + height, high)


class Places:
    """Finds a rectangle for each name, inside its segment and away from the other names."""

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        self.step = max(1, math.ceil(max(height, width) / _GRID))
        self.taken: Mask = np.zeros(
            (math.ceil(height / self.step), math.ceil(width / self.step)), dtype=np.bool_
        )

    def take(self, rectangle: Rectangle) -> None:
        """Mark a rectangle (left, top, right, bottom) as written on."""
        left, top, right, bottom = (at / self.step for at in rectangle)
        rows = slice(math.floor(top), math.ceil(bottom))
        self.taken[rows, math.floor(left) : math.ceil(right)] = True

    def overlap(self, rectangle: Rectangle) -> float:
        """Part of a rectangle that is written on."""
        left, top, right, bottom = (at / self.step for at in rectangle)
        rows = slice(math.floor(top), math.ceil(bottom))
        part = self.taken[rows, math.floor(left) : math.ceil(right)]
        return float(part.mean()) if part.size else 0.0

    def find(self, mask: Mask, width: int, height: int) -> tuple[int, int] | None:
        """(left, top) of the best place for a width x height text on a mask, or None if none is."""
        high, wide = (max(1, round(side / self.step)) for side in (height, width))
        if high > self.taken.shape[0] or wide > self.taken.shape[1] or not mask.any():
            return None
        if np.count_nonzero(mask) < _LEAST_COVER * width * height:
            return None
        small = _reduced(mask, self.step)
        own = _window_sums(small, high, wide) / (high * wide)
        other = _window_sums(self.taken, high, wide) / (high * wide)
        rows, columns = np.nonzero(small)
        tops, lefts = np.ogrid[: own.shape[0], : own.shape[1]]
        away = np.hypot(
            tops + (high - 1) / 2 - rows.mean(), lefts + (wide - 1) / 2 - columns.mean()
        )
        worth = own - 0.2 * away / math.hypot(*small.shape) - 4 * (other > _MOST_OVERLAP)
        top, left = np.unravel_index(int(np.argmax(worth)), worth.shape)
        if other[top, left] > _MOST_OVERLAP or not own[top, left]:
            return None
        return int(left) * self.step, int(top) * self.step


def _reduced(mask: Mask, step: int) -> Mask:
    """One entry for each step x step block: whether most of it is set."""
    high, wide = (math.ceil(side / step) * step for side in mask.shape)
    whole = np.zeros((high, wide), dtype=np.bool_)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    share = whole.reshape(high // step, step, wide // step, step).mean(axis=(1, 3))
    return np.asarray(share >= min(0.5, float(share.max())), dtype=np.bool_)


def _window_sums(mask: Mask, height: int, width: int) -> NDArray[np.int64]:
    """Number of set pixels in each height x width window."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    strips = sums[:, width:] - sums[:, :-width]
    return np.asarray(strips[height:] - strips[:-height])
