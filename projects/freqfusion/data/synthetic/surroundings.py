"""Where the stuff of a scene goes: sky, ground, water, walls, roads and fences."""

from __future__ import annotations

import numpy as np

from freqfusion.data.synthetic.arrays import PointArray
from freqfusion.data.synthetic.canvas import Canvas, View
from freqfusion.data.synthetic.noise import profile_noise
from freqfusion.data.synthetic.shapes import Stroke, blob, points, rectangle
from freqfusion.data.synthetic.structures import fence
from freqfusion.data.synthetic.stuff_textures import asphalt, bricks, grass, sky, water, wood


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
    """A picket fence across a part of the ground, level or rising."""
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
    """A far shore under the horizon, or a pond in the ground."""
    view = canvas.view
    depth = view.height - view.horizon
    if rng.random() < 0.5:
        far = _edge(view, view.horizon + 0.02 * depth, 0.0, rng)
        near_y = view.horizon + float(rng.uniform(0.2, 0.55)) * depth
        near = _edge(view, near_y, 0.08 * depth, rng)[::-1]
        outline = np.concatenate([far, near])
    else:
        centre = (
            float(rng.uniform(0, view.width)),
            view.horizon + float(rng.uniform(0.3, 0.9)) * depth,
        )
        radii = (float(rng.uniform(0.2, 0.5)) * view.width, float(rng.uniform(0.15, 0.35)) * depth)
        outline = blob(rng, centre, radii, 0.2)
    canvas.paint([Stroke(outline)], water(rng, view.unit), "water")


def _paint_road(canvas: Canvas, rng: np.random.Generator) -> None:
    """A road that recedes to the horizon or crosses the ground; lane marks are road too."""
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
        """Point at ``side`` (-1..1 across) and ``along`` (0 far .. 1 near)."""
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
