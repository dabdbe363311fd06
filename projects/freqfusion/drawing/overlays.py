"""Label maps, panoptic maps, instances and errors drawn over an image.

All take a uint8 RGB image and return a new one. A small image comes back larger by the whole factor
``enlargement``, the same for everything that is drawn of it, so that panels fit together. In an
error map what is right is dim and gray, what is wrong shines in the color of its kind. The colors
can be told apart with any color vision (after M. Okabe, K. Ito, "Color Universal Design", 2008);
``*_ERRORS`` name them for a legend.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
from freqfusion.drawing.matching import Kinds, match_instances, panoptic_kinds, semantic_kinds
from freqfusion.drawing.panels import TextPlacer, name_size, outline_width, text_size, write

_SHORT_SIDE = 384
_LONG_SIDE = 1536
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])

T = TypeVar("T", bound=np.generic)

_OPACITY = 0.62
_YELLOW: RGB = (240, 228, 66)
_BLUE: RGB = (86, 180, 233)
_ORANGE: RGB = (240, 110, 20)
_PINK: RGB = (225, 90, 180)
_GREEN: RGB = (0, 158, 115)
_VOID: RGB = (150, 150, 150)
SEMANTIC_ERRORS: Mapping[str, RGB] = {
    "wrong near a boundary": _YELLOW,
    "wrong inside": _PINK,
    "void": _VOID,
}
PANOPTIC_ERRORS: Mapping[str, RGB] = {
    "matched": _GREEN,
    "border off": _YELLOW,
    "missed": _BLUE,
    "spurious": _ORANGE,
    "wrong class or shape": _PINK,
    "void": _VOID,
}
INSTANCE_ERRORS: Mapping[str, RGB] = {
    "matched": _GREEN,
    "missed": _BLUE,
    "spurious": _ORANGE,
    "not counted": _VOID,
}
# (kind of pixel, color, opacity) in the order of drawing.
_SEMANTIC = (("void", _VOID, 0.75), ("inside", _PINK, 0.9), ("boundary", _YELLOW, 0.9))
_PANOPTIC = (
    ("matched", _GREEN, 0.22),
    ("void", _VOID, 0.75),
    ("missed", _BLUE, 0.85),
    ("spurious", _ORANGE, 0.85),
    ("wrong", _PINK, 0.85),
    ("border", _YELLOW, 0.9),
)


def enlargement(height: int, width: int) -> int:
    """Return the whole factor by which a picture is drawn larger, so that names in it can be read.

    The shorter side gets 384 pixels or a little more, the longer one no more than 1536.
    """
    short, long = sorted((height, width))
    return max(1, min(math.ceil(_SHORT_SIDE / short), _LONG_SIDE // long))


def enlarge_image(image: Picture, factor: int) -> Picture:
    """Enlarge a photo smoothly."""
    if factor == 1:
        return image.copy()
    height, width = image.shape[:2]
    size = width * factor, height * factor
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)).copy()


def enlarge_map(values: NDArray[T], factor: int) -> NDArray[T]:
    """Enlarge a map of labels or a mask by repetition: each pixel becomes a square."""
    return values if factor == 1 else values.repeat(factor, axis=0).repeat(factor, axis=1)


def line_width(height: int, width: int) -> int:
    """Return the width of a contour in a picture of this size."""
    return max(2, round(min(height, width) / 500))


def contours(values: NDArray[Any], width: int) -> Mask:
    """Return lines, ``width`` pixels wide, where neighbors in a map differ."""
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
    """Return the mask and the four neighbors of its pixels."""
    result = mask.copy()
    result[1:] |= mask[:-1]
    result[:-1] |= mask[1:]
    result[:, 1:] |= mask[:, :-1]
    result[:, :-1] |= mask[:, 1:]
    return result


def lay_over(picture: Picture, where: Mask, color: RGB | Picture, opacity: float) -> None:
    """Mix a color, or those of another picture, into ``picture`` where the mask is set."""
    above = np.asarray(color)[where] if isinstance(color, np.ndarray) else np.asarray(color)
    mixed = (1 - opacity) * picture[where] + opacity * above
    picture[where] = np.round(mixed).astype(np.uint8)


def dimmed(image: Picture) -> Picture:
    """Return a dark gray version of the image, as the ground of an error map."""
    gray = image @ _GREY_WEIGHTS
    return np.repeat(np.round(18 + 0.36 * gray)[..., None], 3, axis=2).astype(np.uint8)


def draw_image(image: Picture) -> Picture:
    """Return the image alone, as large as what is drawn over it."""
    check_picture(image)
    return enlarge_image(image, enlargement(*image.shape[:2]))


def draw_semantic(image: Picture, content: LabelMap, *, names: bool = True) -> Picture:
    """Draw each pixel in the color of its class, void as it is, and names of large classes."""
    check_picture(image, content.labels.shape)
    factor = enlargement(*image.shape[:2])
    picture, labels = enlarge_image(image, factor), enlarge_map(content.labels, factor)
    table = np.array([*content.colors, WHITE], dtype=np.uint8)
    lay_over(picture, labels >= 0, table[labels], _OPACITY)
    _draw_contours(picture, labels)
    if names:
        parts = (
            (labels == label, content.names[label])
            for label in np.unique(labels).tolist()
            if label >= 0
        )
        _draw_names(picture, parts)
    return picture


def draw_panoptic(image: Picture, content: PanopticMap) -> Picture:
    """Draw each segment in its color, with a contour and its name; void as it is.

    Things of one class have shades of its color.
    """
    check_picture(image, content.ids.shape)
    factor = enlargement(*image.shape[:2])
    picture, ids = enlarge_image(image, factor), enlarge_map(content.ids, factor)
    seen: Counter[int] = Counter()
    for segment in content.segments:
        step = seen[segment.category] if segment.is_thing else 0
        seen[segment.category] += 1
        lay_over(picture, ids == segment.id, shade(segment.color, step), _OPACITY)
    _draw_contours(picture, ids)
    _draw_names(picture, ((ids == one.id, one.name) for one in content.segments))
    return picture


def draw_instances(image: Picture, instances: Sequence[Instance]) -> Picture:
    """Draw masks, boxes, names and scores, each object in a color of its own.

    The smaller one lies above. Crowds have no fill. Where names would cover each other, the one of
    the object with the lower score, or else the smaller one, is left out.
    """
    check_picture(image)
    factor = enlargement(*image.shape[:2])
    picture = enlarge_image(image, factor)
    pairs = [*zip(instances, palette(len(instances)), strict=True)]
    for instance, color in sorted(pairs, key=lambda pair: -pair[0].area()):
        if instance.mask is not None:
            check_picture(image, instance.mask.shape)
            fill = 0.0 if instance.is_crowd else 0.5
            draw_mask(picture, enlarge_map(instance.mask, factor), color, fill)
        draw_box(picture, instance, factor, color)
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
    """Draw the outline of an instance's box; an object without a box gets none."""
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
    """Write names and scores on tags at the boxes, the best and largest first."""
    height, width = picture.shape[:2]
    size = name_size(height, width)
    places = TextPlacer(height, width)
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
            if places.is_free(tag):
                picture[tag[1] : tag[3], tag[0] : tag[2]] = color
                ink = ink_on(color)
                write(picture, instance.caption, (x, y), size, ink=ink, outline=None)
                places.taken.append(tag)
                break


def _draw_contours(picture: Picture, values: IntMap) -> None:
    width = line_width(*picture.shape[:2])
    lay_over(picture, contours(values, width), WHITE, 0.9)


def _draw_names(picture: Picture, parts: Iterable[tuple[Mask, str]]) -> None:
    """Write names at good places of their masks, those of large masks first."""
    height, width = picture.shape[:2]
    size = name_size(height, width)
    places = TextPlacer(height, width)
    edge = outline_width(size)
    for mask, name in sorted(parts, key=lambda part: -int(np.count_nonzero(part[0]))):
        wide, high = text_size(name, size)
        place = places.find(mask, wide + 2 * edge, high)
        if place is not None:
            places.taken.append(write(picture, name, (place[0] + edge, place[1]), size))


def draw_semantic_errors(image: Picture, prediction: LabelMap, gt: LabelMap) -> Picture:
    """Draw wrong pixels by where they are: near a boundary or inside; see ``semantic_kinds``."""
    check_picture(image, gt.labels.shape)
    picture = _paint(image, semantic_kinds(prediction, gt), _SEMANTIC)
    _outline(picture, gt.labels, image, 0.28)
    return picture


def draw_panoptic_errors(image: Picture, prediction: PanopticMap, gt: PanopticMap) -> Picture:
    """Draw pixels by what panoptic quality makes of their segments; see ``panoptic_kinds``."""
    check_picture(image, gt.ids.shape)
    picture = _paint(image, panoptic_kinds(prediction, gt), _PANOPTIC)
    _outline(picture, gt.ids, image, 0.45)
    return picture


def draw_instance_errors(
    image: Picture, predictions: Sequence[Instance], gts: Sequence[Instance]
) -> Picture:
    """Draw matched, spurious and missed objects, by mask IoU 1/2 of one class.

    Crowds, and predictions that lie on one of their class, are gray.
    """
    check_picture(image)
    factor = enlargement(*image.shape[:2])
    picture = enlarge_image(dimmed(image), factor)
    found = match_instances(predictions, gts)
    crowds = [(one, _VOID) for one in gts if one.is_crowd]
    excused = [(predictions[at], _VOID) for at in found.excused]
    matched = [(predictions[at], _GREEN) for at, _ in found.matched]
    missed = [(gts[at], _BLUE) for at in found.missed]
    spurious = [(predictions[at], _ORANGE) for at in found.spurious]
    groups = ((crowds, 0.25), (excused, 0.25), (matched, 0.3), (missed, 0.6), (spurious, 0.6))
    for group, opacity in groups:
        for instance, color in group:
            if instance.mask is not None:
                check_picture(image, instance.mask.shape)
                draw_mask(picture, enlarge_map(instance.mask, factor), color, opacity)
            else:
                draw_box(picture, instance, factor, color)
    tag_instances(picture, [*missed, *spurious], factor)
    return picture


def _paint(image: Picture, kinds: Kinds, colors: Sequence[tuple[str, RGB, float]]) -> Picture:
    factor = enlargement(*image.shape[:2])
    picture = enlarge_image(dimmed(image), factor)
    for kind, color, opacity in colors:
        mask: Mask = enlarge_map(kinds[kind], factor)
        lay_over(picture, mask, color, opacity)
    return picture


def _outline(picture: Picture, values: np.ndarray, image: Picture, opacity: float) -> None:
    """Draw thin lines along the true contours, to see what an error belongs to."""
    factor = enlargement(*image.shape[:2])
    width = max(1, line_width(*picture.shape[:2]) // 2)
    lay_over(picture, contours(enlarge_map(values, factor), width), (255, 255, 255), opacity)
