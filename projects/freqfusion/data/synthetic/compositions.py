"""What a scene shows, from back to front: all that can be painted, or a few large things."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from freqfusion.data.synthetic.canvas import Canvas
from freqfusion.data.synthetic.surroundings import paint_fence, paint_surroundings
from freqfusion.data.synthetic.things import (
    paint_box,
    paint_crowd,
    paint_disc,
    paint_power_line,
    paint_smudge,
    paint_star,
    paint_things,
    paint_tree,
)

Composer = Callable[[Canvas, np.random.Generator], None]

_LARGE = 2.0
_LARGE_THINGS = (partial(paint_disc, radii=(14, 20, 28)), paint_star, paint_box, paint_tree)


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
    for x, row in zip(rng.permutation(places), rows, strict=True):
        y = view.horizon + float(row) * (view.height - view.horizon)
        paint = _LARGE_THINGS[int(rng.integers(len(_LARGE_THINGS)))]
        paint(canvas, rng, (float(x), y), _LARGE * view.nearness(y) * view.unit)


COMPOSITIONS: dict[str, Composer] = {"full": compose_full, "simple": compose_simple}
