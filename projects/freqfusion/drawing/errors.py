"""Error maps: what is right is dim and grey, what is wrong shines in the colour of its kind.

The colours can be told apart with any colour vision (after M. Okabe, K. Ito, "Color Universal
Design", 2008); ``*_ERRORS`` name them for a legend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from freqfusion.drawing.colors import RGB
from freqfusion.drawing.content import (
    Instance,
    LabelMap,
    Mask,
    PanopticMap,
    Picture,
    check_picture,
)
from freqfusion.drawing.matching import (
    Kinds,
    match_instances,
    panoptic_kinds,
    semantic_kinds,
)
from freqfusion.drawing.overlays import draw_box, draw_mask, tag_instances
from freqfusion.drawing.raster import (
    contours,
    dimmed,
    enlarge_image,
    enlarge_map,
    enlargement,
    lay_over,
    line_width,
)

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
# (kind of pixel, colour, opacity) in the order of drawing.
_SEMANTIC = (("void", _VOID, 0.75), ("inside", _PINK, 0.9), ("boundary", _YELLOW, 0.9))
_PANOPTIC = (
    ("matched", _GREEN, 0.22),
    ("void", _VOID, 0.75),
    ("missed", _BLUE, 0.85),
    ("spurious", _ORANGE, 0.85),
    ("wrong", _PINK, 0.85),
    ("border", _YELLOW, 0.9),
)


def draw_semantic_errors(image: Picture, prediction: LabelMap, truth: LabelMap) -> Picture:
    """Wrong pixels by where they are: near a true boundary, or inside; see ``semantic_kinds``."""
    check_picture(image, truth.labels.shape)
    picture = _paint(image, semantic_kinds(prediction, truth), _SEMANTIC)
    _outline(picture, truth.labels, image, 0.28)
    return picture


def draw_panoptic_errors(image: Picture, prediction: PanopticMap, truth: PanopticMap) -> Picture:
    """Pixels by what becomes of their segments in panoptic quality; see ``panoptic_kinds``."""
    check_picture(image, truth.ids.shape)
    picture = _paint(image, panoptic_kinds(prediction, truth), _PANOPTIC)
    _outline(picture, truth.ids, image, 0.45)
    return picture


def draw_instance_errors(
    image: Picture, predictions: Sequence[Instance], truths: Sequence[Instance]
) -> Picture:
    """Matched predictions, spurious ones and missed objects, by mask IoU 1/2 of one class.

    Crowds, and predictions that lie on one of their class, are grey.
    """
    check_picture(image)
    factor = enlargement(*image.shape[:2])
    picture = enlarge_image(dimmed(image), factor)
    found = match_instances(predictions, truths)
    crowds = [(one, _VOID) for one in truths if one.is_crowd]
    excused = [(predictions[at], _VOID) for at in found.excused]
    matched = [(predictions[at], _GREEN) for at, _ in found.matched]
    missed = [(truths[at], _BLUE) for at in found.missed]
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
    """Thin lines along the true contours, to see what an error belongs to."""
    factor = enlargement(*image.shape[:2])
    width = max(1, line_width(*picture.shape[:2]) // 2)
    lay_over(picture, contours(enlarge_map(values, factor), width), (255, 255, 255), opacity)
