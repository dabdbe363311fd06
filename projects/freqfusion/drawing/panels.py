"""Pictures side by side under titles, over a legend: one figure that explains itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from freqfusion.drawing.colors import RGB
from freqfusion.drawing.content import Picture, check_picture
from freqfusion.drawing.text import text_size, write

_PAPER: RGB = (255, 255, 255)
_INK: RGB = (25, 25, 28)


def side_by_side(
    panels: Sequence[Picture],
    titles: Sequence[str] = (),
    *,
    legend: Mapping[str, RGB] | None = None,
) -> Picture:
    """Panels in a row on white, a title over each and the legend's colours and names below.

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
    """A band as wide as the picture; entries that do not fit go to the next line."""
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
