"""Where the things of a scene go: far ones first, near ones over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from freqfusion.data.synthetic.canvas import Canvas
from freqfusion.data.synthetic.shapes import Stroke, blob, ellipse, points, rectangle, star, turned
from freqfusion.data.synthetic.structures import (
    bare_tree,
    catenary,
    conifer,
    cross_arm_pole,
    lamp_post,
    mast,
    pylon,
    wheel,
)
from freqfusion.data.synthetic.thing_textures import (
    ball,
    bark,
    cable,
    facets,
    leaves,
    metal,
    planks,
    smudge,
    tyre,
)

Foot = tuple[float, float]
ThingPainter = Callable[[Canvas, np.random.Generator, Foot, float], None]


def paint_things(canvas: Canvas, rng: np.random.Generator) -> None:
    """Scatter things over the ground, sorted by depth, then some in the air."""
    view = canvas.view
    crowding = min(max(view.height, view.width) / min(view.height, view.width), 3.0)
    count = round(int(rng.integers(8, 15)) * crowding)
    rows = np.sort(rng.uniform(0, 1, size=count) ** 0.8)
    kinds = rng.choice(len(_PAINTERS), size=count, p=_WEIGHTS)
    for row, kind in zip(rows, kinds, strict=True):
        y = view.horizon + 2 + float(row) * (view.height - view.horizon)
        foot = (float(rng.uniform(0, view.width)), y)
        _PAINTERS[kind](canvas, rng, foot, view.nearness(y) * view.unit)
    for _ in range(int(rng.integers(0, 4))):
        foot = (float(rng.uniform(0, view.width)), float(rng.uniform(0.1, 1)) * view.height)
        (paint_disc if rng.random() < 0.5 else paint_star)(canvas, rng, foot, view.unit * 0.7)


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


def paint_crowd(canvas: Canvas, rng: np.random.Generator) -> None:
    """A heap of small discs annotated as one crowd segment, as COCO does for groups."""
    view = canvas.view
    middle = (
        float(rng.uniform(0.1, 0.9)) * view.width,
        float(rng.uniform(0.6, 0.95)) * view.height,
    )
    radius = max(1.5, 4 * view.unit)
    segment = 0
    for _ in range(int(rng.integers(9, 20))):
        x, y = middle + rng.normal(0, 1, size=2) * (4 * radius, 1.6 * radius)
        strokes = [Stroke(ellipse((x, y), (radius, radius)))]
        texture = ball(rng, (x, y), radius)
        if segment:
            canvas.add_to(segment, strokes, texture)
        else:
            segment = canvas.paint(strokes, texture, "disc", crowd=True)


def paint_smudge(canvas: Canvas, rng: np.random.Generator) -> None:
    """A small blob without a label (void)."""
    view = canvas.view
    centre = (float(rng.uniform(0, view.width)), float(rng.uniform(0, view.height)))
    radius = max(1.5, float(rng.uniform(4, 11)) * view.unit)
    canvas.add_to(0, [Stroke(blob(rng, centre, (radius, 0.7 * radius), 0.4))], smudge(rng))


def paint_disc(
    canvas: Canvas,
    rng: np.random.Generator,
    foot: Foot,
    scale: float,
    radii: Sequence[float] = (6, 13, 22, 34),
) -> None:
    """A ball that touches the ground at ``foot``; small ones are common."""
    radius = max(2.0, float(rng.choice(radii)) * float(rng.uniform(0.8, 1.25)) * scale)
    centre = (foot[0], foot[1] - radius)
    _shadow(canvas, foot, radius)
    canvas.paint([Stroke(ellipse(centre, (radius, radius)))], ball(rng, centre, radius), "disc")


def paint_star(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A star of four to seven rays, with slender or stout tips."""
    radius = max(3.0, float(rng.uniform(14, 44)) * scale)
    centre = (foot[0], foot[1] - radius)
    rays, turn = int(rng.integers(4, 8)), float(rng.uniform(0, 2 * np.pi))
    outline = star(centre, radius, float(rng.uniform(0.32, 0.55)), rays, turn)
    canvas.paint([Stroke(outline)], facets(rng, centre, rays, turn), "star")


def paint_box(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A crate with a lid and a side in perspective, or a board that has fallen over."""
    unit = canvas.view.unit
    half = max(2.5, float(rng.uniform(11, 34)) * scale)
    tall = half * float(rng.uniform(0.9, 2.0))
    left, right, top = foot[0] - half, foot[0] + half, foot[1] - tall
    front = rectangle(left, top, right, foot[1])
    if rng.random() < 0.3:
        tilted = turned(front, (foot[0], foot[1] - tall / 2), float(rng.uniform(-0.7, 0.7)))
        canvas.paint([Stroke(tilted)], planks(rng, unit), "box")
        return
    _shadow(canvas, foot, 1.3 * half)
    dx, dy = (half * float(rng.uniform(0.3, 0.6)) * part for part in (1, 0.6))
    lid = points((left, top), (left + dx, top - dy), (right + dx, top - dy), (right, top))
    side = points(
        (right, top), (right + dx, top - dy), (right + dx, foot[1] - dy), (right, foot[1])
    )
    face = planks(rng, unit)
    segment = canvas.paint([Stroke(front), Stroke(lid), Stroke(side)], face, "box")
    if segment:
        canvas.tint([Stroke(lid)], np.float32(1.3))
        canvas.tint([Stroke(side)], np.float32(0.6))


def paint_wheel(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A spoked wheel; what is behind shows between the spokes. Sometimes a pair."""
    radius = max(4.0, float(rng.uniform(16, 40)) * scale)
    spokes, pen = int(rng.integers(5, 13)), canvas.view.pen(rng, 2)
    for number in range(2 if rng.random() < 0.3 else 1):
        centre = (foot[0] + number * 2.4 * radius, foot[1] - radius)
        strokes = wheel(centre, radius, spokes, float(rng.uniform(0, np.pi)), pen)
        canvas.paint(strokes, tyre(rng, centre, radius), "wheel")


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


def paint_tree(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A leafy tree with gaps in its crown, a bush, a fir or a bare tree."""
    unit = canvas.view.unit
    height = max(7.0, float(rng.uniform(44, 125)) * scale)
    kind = rng.random()
    if kind < 0.2:
        strokes = bare_tree(rng, foot, 0.9 * height, max(1, round(2.4 * scale)))
        canvas.paint(strokes, bark(rng, unit), "tree")
    elif kind < 0.45:
        canvas.paint(conifer(rng, foot, height, 0.3 * height), leaves(rng, unit), "tree")
    elif kind < 0.6:
        low = (foot[0], foot[1] - 0.15 * height)
        bush = Stroke(blob(rng, low, (0.32 * height, 0.2 * height), 0.35))
        canvas.paint([bush], leaves(rng, unit), "tree")
    else:
        _paint_leafy_tree(canvas, rng, foot, height)


def _paint_leafy_tree(canvas: Canvas, rng: np.random.Generator, foot: Foot, height: float) -> None:
    unit = canvas.view.unit
    _shadow(canvas, foot, 0.3 * height)
    trunk = max(0.6, 0.03 * height)
    stem = Stroke(rectangle(foot[0] - trunk, foot[1] - 0.6 * height, foot[0] + trunk, foot[1]))
    segment = canvas.paint([stem], bark(rng, unit), "tree")
    crown = []
    for _ in range(int(rng.integers(2, 5))):
        spot = rng.uniform((-0.16, 0.55), (0.16, 0.8)) * height
        reach = float(rng.uniform(0.16, 0.26)) * height
        crown.append(Stroke(blob(rng, (foot[0] + spot[0], foot[1] - spot[1]), (reach, reach), 0.3)))
    for _ in range(int(rng.integers(0, 9))):
        spot = rng.uniform((-0.25, 0.45), (0.25, 0.95)) * height
        gap = float(rng.uniform(0.012, 0.035)) * height
        hole = blob(rng, (foot[0] + spot[0], foot[1] - spot[1]), (gap, gap), 0.4)
        crown.append(Stroke(hole, erase=True))
    texture = leaves(rng, unit)
    if segment:
        canvas.add_to(segment, crown, texture)
    else:
        canvas.paint(crown, texture, "tree")


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


def _shadow(canvas: Canvas, foot: Foot, radius: float) -> None:
    """Darken the ground beside a thing: a hard edge that is no class boundary."""
    if foot[1] < canvas.view.horizon:
        return
    outline = ellipse((foot[0] + 0.5 * radius, foot[1]), (1.2 * radius, 0.25 * radius))
    canvas.tint([Stroke(outline)], np.float32(0.62))


_PAINTERS: tuple[ThingPainter, ...] = (
    paint_disc,
    paint_star,
    paint_box,
    paint_wheel,
    paint_pole,
    paint_tree,
)
_WEIGHTS = (0.16, 0.14, 0.17, 0.18, 0.17, 0.18)
