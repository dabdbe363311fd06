"""Label maps, panoptic maps and instances drawn over an image.

All take a uint8 RGB image and return a new one. A small image comes back larger by the whole factor
``raster.enlargement``, the same for everything that is drawn of it, so that panels fit together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from freqfusion.drawing.colors import RGB, WHITE, ink_on, palette, shade
from freqfusion.drawing.content import (
    Instance,
    IntMap,
    LabelMap,
    Mask,
    PanopticMap,
    Picture,
    check_picture,
)
from freqfusion.drawing.raster import (
    contours,
    enlarge_image,
    enlarge_map,
    enlargement,
    lay_over,
    line_width,
)
from freqfusion.drawing.text import Places, name_size, outline_width, text_size, write

_OPACITY = 0.62


def draw_image(image: Picture) -> Picture:
    """The image alone, as large as what is drawn over it."""
    check_picture(image)
    return enlarge_image(image, enlargement(*image.shape[:2]))


def draw_semantic(
    image: Picture, content: LabelMap, *, opacity: float = _OPACITY, names: bool = True
) -> Picture:
    """Each pixel in the colour of its class, void as it is, and the names of the large classes."""
    check_picture(image, content.labels.shape)
    factor = enlargement(*image.shape[:2])
    picture, labels = enlarge_image(image, factor), enlarge_map(content.labels, factor)
    table = np.array([*content.colors, WHITE], dtype=np.uint8)
    lay_over(picture, labels >= 0, table[labels], opacity)
    _draw_contours(picture, labels)
    if names:
        parts = (
            (labels == label, content.names[label])
            for label in np.unique(labels).tolist()
            if label >= 0
        )
        _draw_names(picture, parts)
    return picture


def draw_panoptic(
    image: Picture, content: PanopticMap, *, opacity: float = _OPACITY, names: bool = True
) -> Picture:
    """Each segment in its colour, with a contour and its name; void as it is.

    Things of one class have shades of its colour.
    """
    check_picture(image, content.ids.shape)
    factor = enlargement(*image.shape[:2])
    picture, ids = enlarge_image(image, factor), enlarge_map(content.ids, factor)
    seen: Counter[int] = Counter()
    for segment in content.segments:
        step = seen[segment.category] if segment.is_thing else 0
        seen[segment.category] += 1
        lay_over(picture, ids == segment.id, shade(segment.color, step), opacity)
    _draw_contours(picture, ids)
    if names:
        _draw_names(picture, ((ids == one.id, one.name) for one in content.segments))
    return picture


def draw_instances(
    image: Picture,
    instances: Sequence[Instance],
    *,
    opacity: float = 0.5,
    names: bool = True,
    colors: Sequence[RGB] | None = None,
) -> Picture:
    """Masks, boxes, names and scores, each object in a colour of its own.

    The smaller one lies above. Crowds have no fill. Where names would cover each other, the one of
    the object with the lower score, or else the smaller one, is left out.
    """
    check_picture(image)
    factor = enlargement(*image.shape[:2])
    picture = enlarge_image(image, factor)
    chosen = palette(len(instances)) if colors is None else list(colors)
    pairs = [*zip(instances, chosen, strict=True)]
    for instance, color in sorted(pairs, key=lambda pair: -pair[0].area()):
        if instance.mask is not None:
            check_picture(image, instance.mask.shape)
            fill = 0.0 if instance.is_crowd else opacity
            draw_mask(picture, enlarge_map(instance.mask, factor), color, fill)
        draw_box(picture, instance, factor, color)
    if names:
        tag_instances(picture, pairs, factor)
    return picture


def draw_mask(picture: Picture, mask: Mask, color: RGB, opacity: float) -> None:
    """Fill a mask and draw its contour."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    # A frame of one pixel around the mask, so that its contour is the whole of its outline.
    width = line_width(*picture.shape[:2])
    top, left = max(rows[0] - width, 0), max(columns[0] - width, 0)
    part = np.s_[top : rows[-1] + width + 1, left : columns[-1] + width + 1]
    lay_over(picture[part], mask[part], color, opacity)
    lay_over(picture[part], contours(mask[part], width), color, 1.0)


def draw_box(picture: Picture, instance: Instance, factor: int, color: RGB) -> None:
    """The outline of an instance's box; an object without a box gets none."""
    if instance.box is None:
        return
    height, width = picture.shape[:2]
    line = max(1, line_width(height, width) // 2)
    left, top, right, bottom = (round(factor * side) for side in instance.box)
    left, right = (max(0, min(side, width)) for side in (left, right))
    top, bottom = (max(0, min(side, height)) for side in (top, bottom))
    for part in (
        np.s_[top : top + line, left:right],
        np.s_[max(bottom - line, 0) : bottom, left:right],
        np.s_[top:bottom, left : left + line],
        np.s_[top:bottom, max(right - line, 0) : right],
    ):
        picture[part] = color


def tag_instances(picture: Picture, pairs: Iterable[tuple[Instance, RGB]], factor: int) -> None:
    """Names and scores on tags at the boxes, the best and largest first."""
    height, width = picture.shape[:2]
    size = name_size(height, width)
    places = Places(height, width)
    ordered = sorted(pairs, key=lambda pair: (-(pair[0].score or 0), -pair[0].area()))
    for instance, color in ordered:
        extent = instance.extent()
        if extent is None:
            continue
        wide, high = text_size(instance.caption, size)
        left, top, right, bottom = (round(factor * side) for side in extent)
        # Above the box, inside it, below it; from its left corner, then from its right one.
        for at in (
            (x, y) for y in (top - high, top, bottom, bottom - high) for x in (left, right - wide)
        ):
            x, y = max(0, min(at[0], width - wide)), max(0, min(at[1], height - high))
            tag = (x, y, min(x + wide, width), min(y + high, height))
            if not places.overlap(tag):
                picture[tag[1] : tag[3], tag[0] : tag[2]] = color
                ink = ink_on(color)
                write(picture, instance.caption, (x, y), size, ink=ink, outline=None)
                places.take(tag)
                break


def _draw_contours(picture: Picture, values: IntMap) -> None:
    width = line_width(*picture.shape[:2])
    lay_over(picture, contours(values, width), WHITE, 0.9)


def _draw_names(picture: Picture, parts: Iterable[tuple[Mask, str]]) -> None:
    """Names at good places of their masks, those of large masks first; none where none fits."""
    height, width = picture.shape[:2]
    size = name_size(height, width)
    places = Places(height, width)
    edge = outline_width(size)
    for mask, name in sorted(parts, key=lambda part: -int(np.count_nonzero(part[0]))):
        wide, high = text_size(name, size)
        place = places.find(mask, wide + 2 * edge, high)
        if place is not None:
            places.take(write(picture, name, (place[0] + edge, place[1]), size))
