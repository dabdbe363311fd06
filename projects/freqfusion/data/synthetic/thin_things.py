"""Things made of lines: wires between poles, wheels, masts, lamp posts, pylons, bare trees."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from freqfusion.data.synthetic.canvas import Canvas
from freqfusion.data.synthetic.structures import (
    bare_tree,
    catenary,
    cross_arm_pole,
    lamp_post,
    mast,
    pylon,
    wheel,
)
from freqfusion.data.synthetic.thing_textures import bark, cable, metal, tyre
from freqfusion.data.synthetic.throng import Foot


def paint_power_line(canvas: Canvas, rng: np.random.Generator) -> None:
    """Wires from edge to edge, each an instance, often hung from two or three poles."""
    view = canvas.view
    if rng.random() < 0.5:
        _paint_pole_row(canvas, rng)
        return
    for _ in range(int(rng.integers(1, 4))):
        start = (-2.0, float(rng.uniform(0, 0.8)) * view.height)
        end = (view.width + 2.0, float(rng.uniform(0, 0.8)) * view.height)
        sag = float(rng.uniform(0, 0.12)) * view.height
        canvas.paint(catenary(start, end, sag, view.pen(rng, 2)), cable(rng), "wire")


def paint_wheel(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A spoked wheel; what is behind shows between the spokes. Sometimes a pair."""
    radius = max(4.0, float(rng.uniform(16, 40)) * scale)
    spokes, pen = int(rng.integers(5, 13)), canvas.view.pen(rng, 2)
    for number in range(2 if rng.random() < 0.3 else 1):
        centre = (foot[0] + number * 2.4 * radius, foot[1] - radius)
        turn, thin = float(rng.uniform(0, np.pi)), canvas.view.line_thickness is not None
        strokes = wheel(centre, radius, spokes, turn, pen, thin_tyre=thin)
        canvas.paint(strokes, tyre(rng, centre, radius), "wheel", anchored=True)


def paint_pole(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A plain mast, a lamp post or a lattice pylon."""
    pen = canvas.view.pen(rng)
    height = max(8.0, float(rng.uniform(70, 190)) * scale)
    kind = rng.random()
    if kind < 0.45:
        strokes = mast(foot, height, float(rng.normal(0, 0.04)) * height, pen)
    elif kind < 0.7:
        strokes = lamp_post(foot, height, int(rng.choice([-1, 1])), pen)
    else:
        strokes = pylon(foot, height, max(2.5, float(rng.uniform(0.05, 0.1)) * height), min(pen, 2))
    canvas.paint(strokes, metal(rng, canvas.view.unit), "pole")


def paint_bare_tree(
    canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float, height: float | None = None
) -> None:
    """A leafless tree; its ``height`` in pixels is drawn when it is not given."""
    if height is None:
        height = max(7.0, float(rng.uniform(44, 125)) * scale)
    strokes = bare_tree(rng, foot, 0.9 * height, max(1, round(2.4 * scale)))
    canvas.paint(strokes, bark(rng, canvas.view.unit), "tree")


def _paint_pole_row(canvas: Canvas, rng: np.random.Generator) -> None:
    """Two or three utility poles with wires from pole to pole and out of the picture."""
    view = canvas.view
    count = int(rng.integers(2, 4))
    foot_y = view.horizon + float(rng.uniform(0.02, 0.5)) * (view.height - view.horizon)
    tall = float(rng.uniform(0.35, 0.75)) * view.height
    arm, pen = max(2.0, 0.07 * tall), view.pen(rng)
    rise = float(rng.normal(0, 0.03)) * view.height
    stops = [-0.3 * view.width, *np.linspace(0.15, 0.85, count) * view.width, 1.3 * view.width]
    texture, fixings = metal(rng, view.unit), []
    for number, x in enumerate(stops):
        foot = (float(x), foot_y + rise * number)
        strokes, fixed = cross_arm_pole(foot, tall, arm, pen)
        canvas.paint(strokes, texture, "pole")
        fixings.append(fixed)
    sag, wire = float(rng.uniform(0.01, 0.06)) * view.height, cable(rng)
    thin = view.pen(rng, 2)
    for place in range(4):
        spans = [
            stroke
            for left, right in pairwise(fixings)
            for stroke in catenary(left[place], right[place], sag, thin)
        ]
        canvas.paint(spans, wire, "wire")
