"""Synthetic scenes: an image and its panoptic ground truth, as a function of (seed, index).

Landscapes of textured stuff with overlapping things, many of them one to three pixels thin.
Colors vary between instances and overlap between classes, light and noise vary between scenes:
texture, shape and fine detail decide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from freqfusion.data.synthetic.canvas import Canvas, Tape, View
from freqfusion.data.synthetic.categories import LABEL_OF_ID, VOID_LABEL
from freqfusion.data.synthetic.painting import (
    Foot,
    ThingPainter,
    paint_bare_tree,
    paint_box,
    paint_crowd,
    paint_disc,
    paint_fence,
    paint_pole,
    paint_power_line,
    paint_smudge,
    paint_star,
    paint_surroundings,
    paint_things,
    paint_tree,
    paint_wheel,
)
from freqfusion.data.synthetic.shapes import ByteArray, IdArray, Range, smooth_noise

Composer = Callable[[Canvas, np.random.Generator], None]

_LARGE = 2.0
_large_disc = partial(paint_disc, radii=(14, 20, 28))
_LARGE_THINGS: tuple[ThingPainter, ...] = (_large_disc, paint_star, paint_box, paint_tree)

# Painters with the factor on their size.
_THIN_THINGS: tuple[tuple[ThingPainter, float], ...] = (
    (paint_pole, 1.0),
    (paint_bare_tree, 1.5),
    (paint_wheel, 1.5),
    (paint_star, 1.0),
)
_THIN_WEIGHTS = (0.36, 0.2, 0.3, 0.14)
_THIN_BACKGROUND: tuple[tuple[ThingPainter, float], ...] = ((_large_disc, 1.5), (paint_box, 1.5))
_THIN_FENCE = 1.5


def compose_full(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint everything: crowded ground, fences, wires, crowds, unlabeled smudges."""
    paint_surroundings(canvas, rng)
    fence_first, line_first = rng.random(2) < 0.5
    has_fence, has_line, has_crowd, has_smudge = rng.random(4) < (0.55, 0.65, 0.06, 0.4)
    if has_line and line_first:
        paint_power_line(canvas, rng)
    if has_fence and fence_first:
        paint_fence(canvas, rng)
    paint_things(canvas, rng)
    if has_fence and not fence_first:
        paint_fence(canvas, rng)
    if has_crowd:
        paint_crowd(canvas, rng)
    if has_line and not line_first:
        paint_power_line(canvas, rng)
    if has_smudge:
        paint_smudge(canvas, rng)


def compose_simple(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint two to four large things beside each other, for models that learn in minutes."""
    paint_surroundings(canvas, rng)
    view = canvas.view
    for foot in _spots(view, rng, int(rng.integers(2, 5)), (0.3, 0.7), (0.5, 0.95)):
        paint = _LARGE_THINGS[int(rng.integers(len(_LARGE_THINGS)))]
        paint(canvas, rng, foot, _LARGE * view.nearness(foot[1]) * view.unit)


def compose_thin(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint five to eight thin things beside two or three larger ones, fences, mostly wires.

    Near and large as in simple scenes, so that small models learn them in minutes.
    """
    paint_surroundings(canvas, rng)
    view = canvas.view
    has_line, line_first, second_fence = rng.random(3) < (0.85, 0.5, 0.5)
    if has_line and line_first:
        paint_power_line(canvas, rng)
    paint_fence(canvas, rng, _THIN_FENCE)
    thin, large = int(rng.integers(5, 9)), int(rng.integers(2, 4))
    kinds = rng.permutation(
        [
            *rng.choice(len(_THIN_THINGS), size=thin, p=_THIN_WEIGHTS),
            *(len(_THIN_THINGS) + rng.integers(len(_THIN_BACKGROUND), size=large)),
        ]
    )
    spots = _spots(view, rng, thin + large, (0.1, 0.9), (0.25, 0.95))
    for foot, kind in zip(spots, kinds.tolist(), strict=True):
        paint, factor = (*_THIN_THINGS, *_THIN_BACKGROUND)[kind]
        paint(canvas, rng, foot, factor * view.nearness(foot[1]) * view.unit)
    if second_fence:
        paint_fence(canvas, rng, _THIN_FENCE)
    if has_line and not line_first:
        paint_power_line(canvas, rng)


def _spots(
    view: View, rng: np.random.Generator, count: int, across: Range, down: Range
) -> list[Foot]:
    """Return where things stand, from far to near: one in each of ``count`` equal columns.

    ``across`` is the range within a column, ``down`` that between horizon (0) and lower edge (1).
    """
    positions = (np.arange(count) + rng.uniform(*across, size=count)) / count * view.width
    rows = np.sort(rng.uniform(*down, size=count))
    ys = view.horizon + rows * (view.height - view.horizon)
    return list(zip(rng.permutation(positions).tolist(), ys.tolist(), strict=True))


COMPOSITIONS: dict[str, Composer] = {
    "full": compose_full,
    "simple": compose_simple,
    "thin": compose_thin,
}
DETAILS = tuple(COMPOSITIONS)
SMALLEST_SIDE = 8


@dataclass(frozen=True, slots=True)
class Segment:
    """A thing, a crowd of things, or all of one stuff; ``id`` is its value in the panoptic map."""

    id: int
    category_id: int
    is_thing: bool
    iscrowd: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and what is in it.

    image: uint8, height x width x 3, RGB. panoptic: int32, height x width, segment ids
    1..len(segments), 0 for void. segments: one for each id, in the order of the ids; each owns at
    least one pixel.
    """

    image: ByteArray
    panoptic: IdArray
    segments: tuple[Segment, ...]

    def semantic(self) -> ByteArray:
        """Labels 0..NUM_CLASSES-1 (things first, see ``categories``), 255 for void; uint8."""
        return self.relabeled(LABEL_OF_ID)

    def relabeled(self, label_of_id: dict[int, int]) -> ByteArray:
        """The segments as labels by ``label_of_id`` (category id -> label); 255 for void; uint8."""
        table = [VOID_LABEL, *(label_of_id[segment.category_id] for segment in self.segments)]
        return np.array(table, dtype=np.uint8)[self.panoptic]


def make_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (256, 256),
    *,
    detail: str = "full",
    line_thickness: int | None = None,
) -> Scene:
    """Paint scene ``index`` of the series ``seed`` at ``size`` = (height, width), 8 pixels or more.

    ``detail`` "simple" paints a few large things and none that is thin, "thin" mostly fences,
    wires, poles, wheels, stars and bare trees. ``line_thickness`` is that of every thin line in
    pixels; None draws it at random by kind and distance. The same arguments give the same scene,
    in any process and in any order; another thickness gives the same layout.
    """
    check_scene(seed, size, detail, line_thickness)
    height, width = size
    rng = np.random.default_rng((seed, index))
    horizon = float(rng.uniform(0.22, 0.62)) * height
    view = View(height, width, horizon, min(height, width) / 256)
    compose = COMPOSITIONS[detail]
    if line_thickness is None:
        canvas = Canvas(view)
        compose(canvas, rng)
    else:
        tape = Tape(rng)
        compose(Canvas(view, tape), rng)
        tape.rewind()
        canvas = Canvas(replace(view, line_thickness=line_thickness), tape)
        compose(canvas, rng)
        tape.finish()
    panoptic, segments = _visible(canvas)
    return Scene(_photograph(canvas, rng), panoptic, segments)


def check_scene(seed: int, size: tuple[int, int], detail: str, line_thickness: int | None) -> None:
    """Raise ValueError for arguments of ``make_scene`` that are not possible."""
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"size is {size[0]}x{size[1]}, but a scene needs at least {SMALLEST_SIDE} pixels on"
            " each side; choose a larger one"
        )
    if detail not in COMPOSITIONS:
        raise ValueError(f"detail is {detail!r}; choose one of {', '.join(DETAILS)}")
    if line_thickness is not None and line_thickness < 1:
        raise ValueError(f"line_thickness must be 1 or more, not {line_thickness}")


def scene_batch(
    seed: int, start: int, count: int, size: tuple[int, int] = (256, 256)
) -> tuple[ByteArray, ByteArray]:
    """Return scenes from ``start`` on: images (count x H x W x 3) and labels (count x H x W).

    Both are uint8; the labels are those of ``Scene.semantic``.
    """
    scenes = [make_scene(seed, start + number, size) for number in range(count)]
    return np.stack([s.image for s in scenes]), np.stack([s.semantic() for s in scenes])


def _visible(canvas: Canvas) -> tuple[IdArray, tuple[Segment, ...]]:
    """Drop segments of which nothing is left to see and number the others 1, 2, ..."""
    counts = np.bincount(canvas.owner.ravel(), minlength=len(canvas.segments) + 1)
    table = np.zeros(len(counts), dtype=np.int32)
    segments: list[Segment] = []
    for owner, (category, crowd) in enumerate(canvas.segments, start=1):
        if counts[owner]:
            table[owner] = len(segments) + 1
            segments.append(Segment(len(segments) + 1, category.id, category.is_thing, crowd))
    return table[canvas.owner], tuple(segments)


def _photograph(canvas: Canvas, rng: np.random.Generator) -> ByteArray:
    """Add uneven light and a color cast, slight blur, then grain."""
    height, width = size = canvas.view.size
    soft = 0.5 * max(height, width)
    light = 1 + 0.2 * smooth_noise(rng, size, (soft, soft))
    cast = rng.uniform(0.92, 1.08, size=(3, 1, 1)) * rng.uniform(0.8, 1.1)
    canvas.image *= light * cast.astype(np.float32)
    side = float(rng.uniform(0.04, 0.24))
    row = (side, 1 - 2 * side, side)
    blur = ImageFilter.Kernel((3, 3), [above * across for above in row for across in row], scale=1)
    blurred = np.asarray(Image.fromarray(canvas.pixels()).filter(blur))
    grain = rng.random((height, width, 3), dtype=np.float32)
    grain -= 0.5
    grain *= np.float32(rng.uniform(3, 24))
    grain += blurred
    return np.clip(grain, 0, 255, out=grain).astype(np.uint8)
