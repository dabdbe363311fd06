"""Where the things of a scene go: far ones first, near ones over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from freqfusion.data.synthetic.canvas import Canvas
from freqfusion.data.synthetic.shapes import Stroke, blob, ellipse, points, rectangle, star, turned
from freqfusion.data.synthetic.structures import conifer
from freqfusion.data.synthetic.thin_things import paint_bare_tree, paint_pole, paint_wheel
from freqfusion.data.synthetic.thing_textures import ball, bark, facets, leaves, planks, smudge
from freqfusion.data.synthetic.throng import Foot, Placed, ThingPainter, Throng


def paint_things(canvas: Canvas, rng: np.random.Generator) -> None:
    """Scatter things over the ground, sorted by depth, then some in the air."""
    view = canvas.view
    crowding = min(max(view.height, view.width) / min(view.height, view.width), 3.0)
    count = round(int(rng.integers(8, 15)) * crowding)
    rows = np.sort(rng.uniform(0, 1, size=count) ** 0.8)
    kinds = rng.choice(len(_PAINTERS), size=count, p=_WEIGHTS)

    def place(drawn: np.random.Generator, row: float, kind: int) -> Placed:
        y = view.horizon + 2 + row * (view.height - view.horizon)
        foot = (float(drawn.uniform(0, view.width)), y)
        return Placed(_PAINTERS[kind], foot, view.nearness(y) * canvas.thing_unit)

    def stray(spare: np.random.Generator) -> Placed:
        row = float(spare.uniform() ** 0.8)
        return place(spare, row, int(spare.choice(len(_PAINTERS), p=_WEIGHTS)))

    throng = Throng(canvas, count, stray)
    for row, kind in zip(rows, kinds, strict=True):
        throng.add(rng, place(rng, float(row), int(kind)))
    throng.finish()
    for _ in range(int(rng.integers(0, 4))):
        foot = (float(rng.uniform(0, view.width)), float(rng.uniform(0.1, 1)) * view.height)
        paint = paint_disc if rng.random() < 0.5 else paint_star
        paint(canvas, rng, foot, canvas.thing_unit * 0.7)


def paint_crowd(canvas: Canvas, rng: np.random.Generator) -> None:
    """A heap of small discs annotated as one crowd segment, as COCO does for groups."""
    view = canvas.view
    middle = (
        float(rng.uniform(0.1, 0.9)) * view.width,
        float(rng.uniform(0.6, 0.95)) * view.height,
    )
    radius = max(1.5, 4 * canvas.thing_unit)
    segment = 0
    for _ in range(int(rng.integers(9, 20))):
        x, y = middle + rng.normal(0, 1, size=2) * (4 * radius, 1.6 * radius)
        strokes = [Stroke(ellipse((x, y), (radius, radius)))]
        texture = ball(rng, (x, y), radius)
        if segment:
            canvas.add_to(segment, strokes, texture, anchored=True)
        else:
            segment = canvas.paint(strokes, texture, "disc", crowd=True, anchored=True)


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
    outline = Stroke(ellipse(centre, (radius, radius)))
    canvas.paint([outline], ball(rng, centre, radius), "disc", anchored=True)


def paint_star(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A star of four to seven rays, with slender or stout tips."""
    radius = max(3.0, float(rng.uniform(14, 44)) * scale)
    centre = (foot[0], foot[1] - radius)
    rays, turn = int(rng.integers(4, 8)), float(rng.uniform(0, 2 * np.pi))
    outline = star(centre, radius, float(rng.uniform(0.32, 0.55)), rays, turn)
    canvas.paint([Stroke(outline)], facets(rng, centre, rays, turn), "star", anchored=True)


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


def paint_tree(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """A leafy tree with gaps in its crown, a bush, a fir or a bare tree."""
    unit = canvas.view.unit
    height = max(7.0, float(rng.uniform(44, 125)) * scale)
    kind = rng.random()
    if kind < 0.2:
        paint_bare_tree(canvas, rng, foot, scale, height)
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
