"""What a scene shows, from back to front: everything, a few large things, or mostly thin ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from freqfusion.data.synthetic.canvas import Canvas
from freqfusion.data.synthetic.surroundings import paint_fence, paint_surroundings
from freqfusion.data.synthetic.thin_things import (
    paint_bare_tree,
    paint_pole,
    paint_power_line,
    paint_wheel,
)
from freqfusion.data.synthetic.things import (
    paint_box,
    paint_crowd,
    paint_disc,
    paint_smudge,
    paint_star,
    paint_things,
    paint_tree,
)
from freqfusion.data.synthetic.throng import Placed, ThingPainter, Throng

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
    """Everything: crowded ground, fences, wires, crowds, unlabelled smudges."""
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
    """Two to four large things beside each other, for models that learn in minutes."""
    paint_surroundings(canvas, rng)
    view = canvas.view
    count = int(rng.integers(2, 5))
    places = (np.arange(count) + rng.uniform(0.3, 0.7, size=count)) / count * view.width
    rows = np.sort(rng.uniform(0.5, 0.95, size=count))

    def place(drawn: np.random.Generator, x: float, row: float) -> Placed:
        y = view.horizon + row * (view.height - view.horizon)
        paint = _LARGE_THINGS[int(drawn.integers(len(_LARGE_THINGS)))]
        return Placed(paint, (x, y), _LARGE * view.nearness(y) * canvas.thing_unit)

    def stray(spare: np.random.Generator) -> Placed:
        return place(spare, float(spare.uniform(0, view.width)), float(spare.uniform(0.5, 0.95)))

    throng = Throng(canvas, count, stray)
    for x, row in zip(rng.permutation(places), rows, strict=True):
        throng.add(rng, place(rng, float(x), float(row)))
    throng.finish()


def compose_thin(canvas: Canvas, rng: np.random.Generator) -> None:
    """Five to eight thin things beside two or three larger ones, fences, mostly wires.

    Near and large as in simple scenes, so that small models learn them in minutes.
    """
    paint_surroundings(canvas, rng)
    view = canvas.view
    has_line, line_first, second_fence = rng.random(3) < (0.85, 0.5, 0.5)
    if has_line and line_first:
        paint_power_line(canvas, rng)
    paint_fence(canvas, rng, _THIN_FENCE)
    thin, large = int(rng.integers(5, 9)), int(rng.integers(2, 4))
    count = thin + large
    kinds = rng.permutation(
        [
            *rng.choice(len(_THIN_THINGS), size=thin, p=_THIN_WEIGHTS),
            *(len(_THIN_THINGS) + rng.integers(len(_THIN_BACKGROUND), size=large)),
        ]
    )
    places = (np.arange(count) + rng.uniform(0.1, 0.9, size=count)) / count * view.width
    rows = np.sort(rng.uniform(0.25, 0.95, size=count))

    def place(x: float, row: float, kind: int) -> Placed:
        y = view.horizon + row * (view.height - view.horizon)
        paint, factor = (*_THIN_THINGS, *_THIN_BACKGROUND)[kind]
        return Placed(paint, (x, y), factor * view.nearness(y) * canvas.thing_unit)

    def stray(spare: np.random.Generator) -> Placed:
        kind = int(spare.choice(kinds))
        return place(float(spare.uniform(0, view.width)), float(spare.uniform(0.25, 0.95)), kind)

    throng = Throng(canvas, count, stray)
    for x, row, kind in zip(rng.permutation(places), rows, kinds, strict=True):
        throng.add(rng, place(float(x), float(row), int(kind)))
    throng.finish()
    if second_fence:
        paint_fence(canvas, rng, _THIN_FENCE)
    if has_line and not line_first:
        paint_power_line(canvas, rng)


COMPOSITIONS: dict[str, Composer] = {
    "full": compose_full,
    "simple": compose_simple,
    "thin": compose_thin,
}
