"""Text in images, and images side by side under titles, over a legend.

Text is outlined, never leaves the image, and finds a free place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freqfusion.drawing.colors import BLACK, RGB, WHITE
from freqfusion.drawing.content import Mask, Picture, check_picture

Rectangle = tuple[int, int, int, int]
# The part of a text's rectangle that its segment must have.
_LEAST_COVER = 0.3

_PAPER: RGB = (255, 255, 255)
_INK: RGB = (25, 25, 28)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own scalable font."""
    return ImageFont.load_default(size)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Return the (width, height) that a line of text takes, with its outline."""
    left, _, right, _ = font(size).getbbox(text or " ")
    edge = 2 * outline_width(size)
    return math.ceil(right - min(left, 0)) + edge, math.ceil(1.2 * size) + edge


def outline_width(size: int) -> int:
    """Return the width of the outline of text of a size."""
    return max(1, round(size / 9))


def fitting(text: str, size: int, width: int) -> str:
    """Return the text, cut where it does not fit ``width``."""
    if text_size(text, size)[0] <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        cut = text[:length].rstrip() + "…"
        if text_size(cut, size)[0] <= width:
            return cut
    return ""


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
    text = fitting(text, size, wide)
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
    """Finds a rectangle for each name, in the middle of its segment and away from other names."""

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        self.taken: list[Rectangle] = []

    def is_free(self, rectangle: Rectangle) -> bool:
        """Return whether nothing is written on a rectangle (left, top, right, bottom)."""
        left, top, right, bottom = rectangle
        return not any(
            left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
            for other in self.taken
        )

    def find(self, mask: Mask, width: int, height: int) -> tuple[int, int] | None:
        """Return (left, top) of a width x height text on a mask; None where there is no room."""
        rows, columns = np.nonzero(mask)
        high, wide = self.size
        if not rows.size or rows.size < _LEAST_COVER * width * height or width > wide:
            return None
        middle = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
        left = max(0, min(int(columns[middle]) - width // 2, wide - width))
        top = max(0, min(int(rows[middle]) - height // 2, high - height))
        return (left, top) if self.is_free((left, top, left + width, top + height)) else None


def side_by_side(
    panels: Sequence[Picture],
    titles: Sequence[str],
    *,
    columns: int | None = None,
    legend: Mapping[str, RGB] | None = None,
) -> Picture:
    """Return panels of one size on white, a title over each and the legend below.

    They stand in one row, or in rows of ``columns``.
    """
    if not panels or len(titles) != len(panels):
        raise ValueError(
            f"{len(titles)} titles for {len(panels)} panels: give one panel or more, and a title"
            " for each"
        )
    for panel in panels:
        check_picture(panel, panels[0].shape[:2])
    size = max(15, round(min(panels[0].shape[:2]) / 21))
    gap = max(6, size // 2)
    titled = [_under_title(*one, size, gap) for one in zip(panels, titles, strict=True)]
    height, width = titled[0].shape[:2]
    across = min(columns or len(titled), len(titled))
    down = -(-len(titled) // across)
    picture = _blank(down * (height + gap) + gap, across * (width + gap) + gap)
    for number, panel in enumerate(titled):
        row, column = divmod(number, across)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        picture[top : top + height, left : left + width] = panel
    return picture if not legend else np.concatenate([picture, _legend(legend, picture, size, gap)])


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


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), _PAPER, dtype=np.uint8)
