"""Text in images, and images side by side under titles, over a legend.

Text is outlined, never leaves the image, and finds a free place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from freqfusion.drawing.colors import BLACK, RGB, WHITE
from freqfusion.drawing.content import Mask, Picture, check_picture

Rectangle = tuple[int, int, int, int]
_LEAST_SIZE = 7
_GRID = 192
# Parts of a text's rectangle: how much may lie on other text, and how much its own segment needs.
_MOST_OVERLAP = 0.12
_LEAST_COVER = 0.3

_PAPER: RGB = (255, 255, 255)
_INK: RGB = (25, 25, 28)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own scalable font."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Return the (width, height) that a line of text takes, with its outline."""
    left, _, right, _ = font(size).getbbox(text or " ")
    edge = 2 * outline_width(size)
    return math.ceil(right - min(left, 0)) + edge, math.ceil(1.2 * size) + edge


def outline_width(size: int) -> int:
    """Return the width of the outline of text of a size."""
    return max(1, round(size / 9))


def fitting(text: str, size: int, width: int) -> tuple[str, int]:
    """Return the text and the size at which it fits ``width``: smaller first, then cut."""
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
    """Return the size of names in a picture of this size."""
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


class TextPlacer:
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
        """Return part of a rectangle that is written on."""
        left, top, right, bottom = (at / self.step for at in rectangle)
        rows = slice(math.floor(top), math.ceil(bottom))
        part = self.taken[rows, math.floor(left) : math.ceil(right)]
        return float(part.mean()) if part.size else 0.0

    def find(self, mask: Mask, width: int, height: int) -> tuple[int, int] | None:
        """Return (left, top) of the best place for a width x height text on a mask, or None."""
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
    """Return one entry for each step x step block: whether most of it is set."""
    high, wide = (math.ceil(side / step) * step for side in mask.shape)
    whole = np.zeros((high, wide), dtype=np.bool_)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    share = whole.reshape(high // step, step, wide // step, step).mean(axis=(1, 3))
    return np.asarray(share >= min(0.5, float(share.max())), dtype=np.bool_)


def _window_sums(mask: Mask, height: int, width: int) -> NDArray[np.int64]:
    """Return number of set pixels in each height x width window."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0).cumsum(axis=1)
    strips = sums[:, width:] - sums[:, :-width]
    return np.asarray(strips[height:] - strips[:-height])


def side_by_side(
    panels: Sequence[Picture],
    titles: Sequence[str] = (),
    *,
    legend: Mapping[str, RGB] | None = None,
) -> Picture:
    """Panels in a row on white, a title over each and the legend's colors and names below.

    Panels may differ in size: they stand in the middle of the row's height. ``titles`` has as many
    as there are panels, or none.
    """
    if not panels:
        raise ValueError("side_by_side needs one panel or more, and got none")
    if titles and len(titles) != len(panels):
        raise ValueError(
            f"{len(titles)} titles for {len(panels)} panels: give one for each, or none"
        )
    for panel in panels:
        check_picture(panel)
    height = max(panel.shape[0] for panel in panels)
    size = max(15, round(min(height, max(panel.shape[1] for panel in panels)) / 21))
    gap = max(6, size // 2)
    columns = [_column(panel, height) for panel in panels]
    if titles:
        named = zip(columns, titles, strict=True)
        columns = [_under_title(column, title, size, gap) for column, title in named]
    space = _blank(columns[0].shape[0], gap)
    row = [part for column in columns for part in (column, space)][:-1]
    picture = _framed(np.concatenate(row, axis=1), gap)
    return picture if not legend else np.concatenate([picture, _legend(legend, picture, size, gap)])


def _column(panel: Picture, height: int) -> Picture:
    above = (height - panel.shape[0]) // 2
    below = height - panel.shape[0] - above
    wide = panel.shape[1]
    return np.concatenate([_blank(above, wide), panel, _blank(below, wide)])


def _under_title(column: Picture, title: str, size: int, gap: int) -> Picture:
    band = _blank(text_size(title, size)[1] + gap // 2, column.shape[1])
    write(band, title, (0, 0), size, ink=_INK, outline=None)
    return np.concatenate([band, column])


def _legend(legend: Mapping[str, RGB], picture: Picture, size: int, gap: int) -> Picture:
    """Return a band as wide as the picture; entries that do not fit go to the next line."""
    size = max(12, round(0.85 * size))
    width = picture.shape[1]
    line = text_size("", size)[1] + gap // 2
    side = round(0.8 * size)
    places: list[tuple[str, RGB, int, int]] = []
    left, top = gap, 0
    for name, color in legend.items():
        wide = side + gap // 2 + text_size(name, size)[0]
        if left > gap and left + wide > width - gap:
            left, top = gap, top + line
        places.append((name, color, left, top))
        left += wide + 2 * gap
    band = _blank(top + line + gap // 2, width)
    for name, color, left, top in places:
        high = text_size(name, size)[1]
        above = top + (high - side) // 2
        band[above : above + side, left : left + side] = color
        place = left + side + gap // 2, top
        write(band, name, place, size, ink=_INK, outline=None)
    return band


def _framed(picture: Picture, width: int) -> Picture:
    frame = ((width, width), (width, width), (0, 0))
    return np.pad(picture, frame, constant_values=_PAPER[0])


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), _PAPER, dtype=np.uint8)
