"""Paint what a scene is made of: surroundings, things made of lines, and other things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from freqfusion.data.synthetic.canvas import Canvas, View
from freqfusion.data.synthetic.shapes import (
    PointArray,
    Stroke,
    bare_tree,
    blob,
    catenary,
    conifer,
    cross_arm_pole,
    ellipse,
    fence,
    lamp_post,
    mast,
    points,
    profile_noise,
    pylon,
    rectangle,
    star,
    turned,
    wheel,
)
from freqfusion.data.synthetic.textures import (
    asphalt,
    ball,
    bark,
    bricks,
    cable,
    facets,
    grass,
    leaves,
    metal,
    planks,
    sky,
    smudge,
    tyre,
    water,
    wood,
)

Foot = tuple[float, float]
ThingPainter = Callable[[Canvas, np.random.Generator, Foot, float], None]


def paint_surroundings(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint all stuff but the fence: every pixel has an owner afterwards."""
    view = canvas.view
    unit = view.unit
    # The ground's edge reaches at most this far down, so no pixel stays without an owner.
    lowest = view.horizon + 0.05 * view.height + 3
    canvas.paint([Stroke(rectangle(-1, -1, view.width, lowest))], sky(rng, unit), "sky")
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 3))):
            _paint_wall(canvas, rng)
    ground = grass(rng, unit)
    canvas.paint([_ground(view, rng)], ground, "grass")
    if rng.random() < 0.6:
        _paint_water(canvas, rng)
    if rng.random() < 0.7:
        _paint_road(canvas, rng)


def paint_fence(canvas: Canvas, rng: np.random.Generator, scale: float = 1.0) -> None:
    """Paint a picket fence across a part of the ground, level or rising."""
    view = canvas.view
    base = float(rng.uniform(view.horizon + 0.1 * (view.height - view.horizon), view.height))
    near = view.nearness(base)
    left = float(rng.uniform(-0.2, 0.5)) * view.width
    right = left + float(rng.uniform(0.4, 1.0)) * view.width
    rise = float(rng.normal(0, 0.04)) * view.height
    if view.line_thickness is not None:
        left, right = round(left), round(right)
    x = np.linspace(left, right, 8)
    line = np.stack([x, base + np.linspace(0, rise, 8)], axis=1)
    pen = view.pen(rng)
    spacing = pen + max(2.0, float(rng.uniform(3, 7)) * near * view.unit * scale)
    if view.line_thickness is not None:
        # Pickets on whole pixels, or some would be a pixel thicker than others.
        spacing = round(spacing)
    tall = max(4.0, float(rng.uniform(26, 52)) * near * view.unit * scale)
    strokes = fence(line, tall, spacing, pen, pointed=rng.random() < 0.5)
    canvas.paint(strokes, wood(rng, view.unit), "fence")


def _edge(view: View, y: float, waviness: float, rng: np.random.Generator) -> PointArray:
    """A line from left to right that wanders by ``waviness`` coarsely and by a pixel finely."""
    count = max(2, view.width)
    wander = waviness * profile_noise(rng, count, count / 4)
    bristle = 1.5 * view.unit**0.5 * profile_noise(rng, count, 1)
    return np.stack([np.linspace(-1, view.width, count), y + wander + bristle], axis=1)


def _ground(view: View, rng: np.random.Generator) -> Stroke:
    edge = _edge(view, view.horizon, float(rng.uniform(0, 0.05)) * view.height, rng)
    corners = points((view.width, view.height), (-1, view.height))
    return Stroke(np.concatenate([edge, corners]))


def _paint_wall(canvas: Canvas, rng: np.random.Generator) -> None:
    """A brick wall on the horizon, with or without battlements and openings one sees through."""
    view = canvas.view
    left = float(rng.uniform(-0.3, 0.7)) * view.width
    right = left + float(rng.uniform(0.25, 0.9)) * view.width
    top = view.horizon * float(rng.uniform(0.05, 0.75))
    strokes = [Stroke(rectangle(left, top, right, view.horizon + 0.1 * view.height))]
    notch = max(2.0, float(rng.uniform(5, 12)) * view.unit)
    if rng.random() < 0.5:
        for x in np.arange(left + notch, right - notch, 2 * notch):
            strokes.append(Stroke(rectangle(x, top - 1, x + notch - 1, top + notch), erase=True))
    if rng.random() < 0.5:
        pane = notch * 1.2
        for x in np.arange(left + 2 * pane, right - 2 * pane, 3 * pane):
            low = top + 2.2 * pane
            strokes.append(Stroke(rectangle(x, low, x + pane, low + 1.5 * pane), erase=True))
    canvas.paint(strokes, bricks(rng, view.unit), "wall")


def _paint_water(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a far shore under the horizon, or a pond in the ground."""
    view = canvas.view
    depth = view.height - view.horizon
    if rng.random() < 0.5:
        far = _edge(view, view.horizon + 0.02 * depth, 0.0, rng)
        near_y = view.horizon + float(rng.uniform(0.2, 0.55)) * depth
        near = _edge(view, near_y, 0.08 * depth, rng)[::-1]
        outline = np.concatenate([far, near])
    else:
        center = (
            float(rng.uniform(0, view.width)),
            view.horizon + float(rng.uniform(0.3, 0.9)) * depth,
        )
        radii = (float(rng.uniform(0.2, 0.5)) * view.width, float(rng.uniform(0.15, 0.35)) * depth)
        outline = blob(rng, center, radii, 0.2)
    canvas.paint([Stroke(outline)], water(rng, view.unit), "water")


def _paint_road(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a road that recedes to the horizon or crosses the ground; lane marks are road too."""
    view = canvas.view
    paint = np.float32(1.9 if rng.random() < 0.8 else 0.5)
    if rng.random() < 0.55:
        outline, marks = _receding_road(view, rng)
    else:
        outline, marks = _crossing_road(view, rng)
    canvas.paint([Stroke(outline)], asphalt(rng, view.unit), "road")
    tone = np.array([1, 1, 0.55 if rng.random() < 0.3 else 1], dtype=np.float32)[:, None, None]
    canvas.tint([Stroke(mark) for mark in marks], paint * tone, "road")


def _receding_road(view: View, rng: np.random.Generator) -> tuple[PointArray, list[PointArray]]:
    vanishing = np.array([rng.uniform(0.2, 0.8) * view.width, view.horizon + 1])
    middle = np.array([rng.uniform(0.0, 1.0) * view.width, view.height + 1.0])
    half = float(rng.uniform(0.2, 0.45)) * view.width

    def at(side: float, along: float) -> tuple[float, float]:
        """Return the point at ``side`` (-1..1 across) and ``along`` (0 far .. 1 near)."""
        near = middle + np.array([side * half, 0])
        x, y = vanishing + (near - vanishing) * (0.03 + 0.97 * along)
        return float(x), float(y)

    outline = points(at(-1, 0), at(1, 0), at(1, 1), at(-1, 1))
    marks = []
    for side in (-0.9, 0.0, 0.9):
        steps = [(0.0, 1.0)] if side else [(0.75**n * 0.8, 0.75**n) for n in range(9)]
        for far, near in steps:
            corners = (at(side - 0.03, far), at(side + 0.03, far), at(side + 0.03, near))
            marks.append(points(*corners, at(side - 0.03, near)))
    return outline, marks


def _crossing_road(view: View, rng: np.random.Generator) -> tuple[PointArray, list[PointArray]]:
    depth = view.height - view.horizon
    left_y, right_y = view.horizon + rng.uniform(0.2, 0.7, size=2) * depth
    thickness = float(rng.uniform(0.15, 0.4)) * depth
    slope = (right_y - left_y) / view.width

    def strip(start: float, end: float, low: float, high: float) -> PointArray:
        return points(
            (start, left_y + slope * start + low),
            (end, left_y + slope * end + low),
            (end, left_y + slope * end + high),
            (start, left_y + slope * start + high),
        )

    line = max(1.0, 1.5 * view.unit)
    dash = max(4.0, 12 * view.unit)
    outline = strip(-1, view.width, 0, thickness)
    marks = [
        strip(-1, view.width, part * thickness, part * thickness + line) for part in (0.06, 0.9)
    ]
    for start in np.arange(0, view.width, 2 * dash):
        marks.append(strip(start, start + dash, thickness / 2, thickness / 2 + line))
    return outline, marks


def paint_power_line(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint wires from edge to edge, each an instance, often hung from two or three poles."""
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
    """Paint a spoked wheel; what is behind shows between the spokes. Sometimes a pair."""
    radius = max(4.0, float(rng.uniform(16, 40)) * scale)
    spokes, pen = int(rng.integers(5, 13)), canvas.view.pen(rng, 2)
    for number in range(2 if rng.random() < 0.3 else 1):
        center = (foot[0] + number * 2.4 * radius, foot[1] - radius)
        turn, thin = float(rng.uniform(0, np.pi)), canvas.view.line_thickness is not None
        strokes = wheel(center, radius, spokes, turn, pen, thin_tyre=thin)
        canvas.paint(strokes, tyre(rng, center, radius), "wheel")


def paint_pole(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """Paint a plain mast, a lamp post or a lattice pylon."""
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
    """Paint a leafless tree; its ``height`` in pixels is drawn when it is not given."""
    if height is None:
        height = max(7.0, float(rng.uniform(44, 125)) * scale)
    strokes = bare_tree(rng, foot, 0.9 * height, max(1, round(2.4 * scale)))
    canvas.paint(strokes, bark(rng, canvas.view.unit), "tree")


def _paint_pole_row(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint two or three utility poles with wires from pole to pole and out of the image."""
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
    for hook in range(4):
        spans = [
            stroke
            for left, right in pairwise(fixings)
            for stroke in catenary(left[hook], right[hook], sag, thin)
        ]
        canvas.paint(spans, wire, "wire")


def paint_things(canvas: Canvas, rng: np.random.Generator) -> None:
    """Scatter things over the ground, sorted by depth, then some in the air."""
    view = canvas.view
    crowding = min(max(view.height, view.width) / min(view.height, view.width), 3.0)
    count = round(int(rng.integers(8, 15)) * crowding)
    rows = np.sort(rng.uniform(0, 1, size=count) ** 0.8)
    kinds = rng.choice(len(_PAINTERS), size=count, p=_WEIGHTS)

    for row, kind in zip(rows.tolist(), kinds.tolist(), strict=True):
        y = view.horizon + 2 + row * (view.height - view.horizon)
        foot = (float(rng.uniform(0, view.width)), y)
        _PAINTERS[kind](canvas, rng, foot, view.nearness(y) * view.unit)
    for _ in range(int(rng.integers(0, 4))):
        foot = (float(rng.uniform(0, view.width)), float(rng.uniform(0.1, 1)) * view.height)
        paint = paint_disc if rng.random() < 0.5 else paint_star
        paint(canvas, rng, foot, view.unit * 0.7)


def paint_crowd(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a heap of small discs annotated as one crowd segment, as COCO does for groups."""
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
    """Paint a small blob without a label (void)."""
    view = canvas.view
    center = (float(rng.uniform(0, view.width)), float(rng.uniform(0, view.height)))
    radius = max(1.5, float(rng.uniform(4, 11)) * view.unit)
    canvas.add_to(0, [Stroke(blob(rng, center, (radius, 0.7 * radius), 0.4))], smudge(rng))


def paint_disc(
    canvas: Canvas,
    rng: np.random.Generator,
    foot: Foot,
    scale: float,
    radii: Sequence[float] = (6, 13, 22, 34),
) -> None:
    """Paint a ball that touches the ground at ``foot``; small ones are common."""
    radius = max(2.0, float(rng.choice(radii)) * float(rng.uniform(0.8, 1.25)) * scale)
    center = (foot[0], foot[1] - radius)
    _shadow(canvas, foot, radius)
    outline = Stroke(ellipse(center, (radius, radius)))
    canvas.paint([outline], ball(rng, center, radius), "disc")


def paint_star(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """Paint a star of four to seven rays, with slender or stout tips."""
    radius = max(3.0, float(rng.uniform(14, 44)) * scale)
    center = (foot[0], foot[1] - radius)
    rays, turn = int(rng.integers(4, 8)), float(rng.uniform(0, 2 * np.pi))
    outline = star(center, radius, float(rng.uniform(0.32, 0.55)), rays, turn)
    canvas.paint([Stroke(outline)], facets(rng, center, rays, turn), "star")


def paint_box(canvas: Canvas, rng: np.random.Generator, foot: Foot, scale: float) -> None:
    """Paint a crate with a lid and a side in perspective, or a board that has fallen over."""
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
    """Paint a leafy tree with gaps in its crown, a bush, a fir or a bare tree."""
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
