"""Outlines, and how they become pixels.

A shape is a list of strokes: filled outlines and lines some pixels wide, drawn one over the other;
a stroke may also erase, which makes holes. Points are (x, y) in pixels of the whole scene and may
lie outside of it.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

BoolArray = NDArray[np.bool_]
"""A mask, height x width."""

ByteArray = NDArray[np.uint8]
"""An RGB image (height x width x 3) or a label map (height x width)."""

FloatArray = NDArray[np.float32]
"""An image being painted (3 x height x width, 0..255), a color (3 x 1 x 1), or a noise field."""

IdArray = NDArray[np.int32]
"""A map of segment ids, height x width, 0 for void."""

IntArray = NDArray[np.int64]
"""Counts, indices and polygon corners."""

PointArray = NDArray[np.float64]
"""Corners of an outline, n x 2, (x, y) in pixels."""


Range = tuple[float, float]


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, int], cell: tuple[float, float]
) -> FloatArray:
    """Return noise in about [-1, 1] whose features are ``cell`` = (height, width) pixels large.

    A cell of one pixel gives white noise; unequal sides give streaks (grass, ripples, wood).
    """
    height, width = size
    rows = max(2, math.ceil(height / max(cell[0], 1.0)) + 1)
    columns = max(2, math.ceil(width / max(cell[1], 1.0)) + 1)
    grid = rng.random((rows, columns), dtype=np.float32) * 2 - 1
    if rows > height and columns > width:
        return grid[:height, :width]
    resized = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def cloud_noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> FloatArray:
    """Return three octaves of smooth noise in about [-1, 1], the coarsest ``cell`` pixels large."""
    field = np.zeros(size, dtype=np.float32)
    for octave, weight in enumerate((0.57, 0.29, 0.14)):
        side = max(cell / 2**octave, 1.0)
        field += np.float32(weight) * smooth_noise(rng, size, (side, side))
    return field


def profile_noise(rng: np.random.Generator, count: int, cell: float) -> FloatArray:
    """Return a line of ``count`` noise values in [-1, 1] with features ``cell`` values long."""
    knots = max(2, math.ceil(count / max(cell, 1.0)) + 1)
    values = rng.random(knots, dtype=np.float32) * 2 - 1
    line = np.interp(np.linspace(0, knots - 1, count), np.arange(knots), values)
    return line.astype(np.float32)


def random_color(
    rng: np.random.Generator, hue: Range = (0, 1), saturation: Range = (0, 1), value: Range = (0, 1)
) -> FloatArray:
    """A color drawn evenly from ranges of hue (any real, taken modulo 1), saturation and value.

    RGB, 0..255, 3 x 1 x 1, so that it multiplies with fields of height x width.
    """
    rgb = colorsys.hsv_to_rgb(
        float(rng.uniform(*hue)) % 1.0, float(rng.uniform(*saturation)), float(rng.uniform(*value))
    )
    return np.array(rgb, dtype=np.float32)[:, None, None] * np.float32(255)


def mix(first: FloatArray, second: FloatArray, amount: FloatArray) -> FloatArray:
    """Blend two colors: ``first`` where ``amount`` is 0 or less, ``second`` where 1 or more."""
    blend: FloatArray = (second - first) * np.clip(amount, 0, 1, dtype=np.float32)
    blend += first
    return blend


@dataclass(frozen=True, slots=True)
class Stroke:
    """A filled outline (``width`` 0) or a line ``width`` pixels wide; ``erase`` removes it.

    With ``exact``, every row of a steep line, or column of a level one, has just ``width`` pixels;
    without, Pillow makes lines of short pieces up to a pixel thinner.
    """

    points: PointArray
    width: int = 0
    erase: bool = False
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the scene; textures ask its ``grid`` where they are."""

    top: int
    left: int
    height: int
    width: int

    def xywh(self) -> list[int]:
        """Return COCO's order: x, y, width, height."""
        return [self.left, self.top, self.width, self.height]

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """Return scene coordinates y (height x 1) and x (1 x width) of the window's pixels."""
        y = np.arange(self.top, self.top + self.height, dtype=np.float32)[:, None]
        x = np.arange(self.left, self.left + self.width, dtype=np.float32)[None, :]
        return y, x

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return the index of the window in an array of the scene's size."""
        rows = slice(self.top, self.top + self.height)
        return rows, slice(self.left, self.left + self.width)


@dataclass(frozen=True, slots=True)
class Patch:
    """The pixels of a shape: a window of the scene and a mask of the window's size."""

    window: Window
    mask: BoolArray


def rasterize(strokes: Sequence[Stroke], size: tuple[int, int]) -> Patch | None:
    """Draw into a scene of ``size`` = (height, width); None when no pixel falls into it."""
    height, width = size
    corners = np.concatenate([stroke.points for stroke in strokes])
    margin = max(stroke.width for stroke in strokes)
    (low_x, low_y), (high_x, high_y) = corners.min(axis=0), corners.max(axis=0)
    left, top = max(math.floor(low_x) - margin, 0), max(math.floor(low_y) - margin, 0)
    right = min(math.ceil(high_x) + margin + 1, width)
    bottom = min(math.ceil(high_y) + margin + 1, height)
    if left >= right or top >= bottom:
        return None
    drawing = Image.new("L", (right - left, bottom - top))
    draw = ImageDraw.Draw(drawing)
    for stroke in strokes:
        coordinates = (stroke.points - (left, top)).ravel().tolist()
        if stroke.exact and stroke.width > 1:
            _draw_exactly(draw, stroke.points - (left, top), stroke.width)
        elif stroke.width:
            draw.line(coordinates, fill=0 if stroke.erase else 1, width=stroke.width)
        else:
            draw.polygon(coordinates, fill=0 if stroke.erase else 1)
    mask = np.asarray(drawing).astype(np.bool_)
    if not mask.any():
        return None
    return Patch(Window(top, left, bottom - top, right - left), mask)


def _draw_exactly(draw: ImageDraw.ImageDraw, corners: PointArray, width: int) -> None:
    """Lines of one pixel beside each other, across the direction that each piece mostly has."""
    for start, end in pairwise(corners):
        along_x = abs(end[0] - start[0]) >= abs(end[1] - start[1])
        for shift in range(-((width - 1) // 2), width // 2 + 1):
            offset = (0, shift) if along_x else (shift, 0)
            draw.line([*(start + offset).tolist(), *(end + offset).tolist()], fill=1)


def points(*pairs: tuple[float, float]) -> PointArray:
    """Return the given (x, y) pairs as an array."""
    return np.array(pairs, dtype=np.float64)


def ellipse(center: tuple[float, float], radii: tuple[float, float]) -> PointArray:
    """Return the outline of an axis-aligned ellipse, with corners about two pixels apart."""
    count = int(np.clip(3 * max(radii), 8, 200))
    angle = np.arange(count, dtype=np.float64) * (2 * np.pi / count)
    return _around(center, radii[0], radii[1], angle)


def star(
    center: tuple[float, float], radius: float, inner: float, rays: int, turn: float
) -> PointArray:
    """Outline of a star with ``rays`` tips; ``inner`` is the inner radius over the outer one."""
    angle = turn + np.arange(2 * rays) * np.pi / rays
    reach = np.where(np.arange(2 * rays) % 2 == 0, radius, radius * inner)
    return _around(center, reach, reach, angle)


def blob(
    rng: np.random.Generator,
    center: tuple[float, float],
    radii: tuple[float, float],
    raggedness: float,
) -> PointArray:
    """A closed outline that wanders, finely and coarsely, by up to ``raggedness`` of its radius."""
    count = int(np.clip(4 * max(radii), 12, 400))
    angle = np.arange(count, dtype=np.float64) * (2 * np.pi / count)
    coarse = 0.6 * profile_noise(rng, count, count / 9) + 0.5 * profile_noise(rng, count, 2)
    # Fade the wander out at both ends, where the outline closes.
    reach = 1 + raggedness * coarse * np.minimum(1, 6 * np.sin(angle / 2))
    return _around(center, radii[0] * reach, radii[1] * reach, angle)


def rectangle(left: float, top: float, right: float, bottom: float) -> PointArray:
    """Return the corners of an axis-aligned rectangle."""
    return points((left, top), (right, top), (right, bottom), (left, bottom))


def turned(outline: PointArray, center: tuple[float, float], angle: float) -> PointArray:
    """Turn an outline about ``center`` by ``angle`` radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = np.array([[cosine, sine], [-sine, cosine]])
    return np.asarray((outline - center) @ matrix + center, dtype=np.float64)


def _around(
    center: tuple[float, float],
    reach_x: float | PointArray,
    reach_y: float | PointArray,
    angle: PointArray,
) -> PointArray:
    """Return points at the given angles and distances from ``center``."""
    outline = np.empty((len(angle), 2))
    outline[:, 0] = center[0] + reach_x * np.cos(angle)
    outline[:, 1] = center[1] + reach_y * np.sin(angle)
    return outline


def wheel(
    center: tuple[float, float],
    radius: float,
    spokes: int,
    turn: float,
    pen: int,
    *,
    thin_tyre: bool = False,
) -> list[Stroke]:
    """Return a tyre, spokes and a hub; one sees through between the spokes.

    The tyre has a sixth of the radius, or the width of a spoke with ``thin_tyre``.
    """
    tyre = max(1.5, 0.16 * radius)
    if thin_tyre:
        middle = ellipse(center, (radius - 0.5 * pen, radius - 0.5 * pen))
        strokes = [Stroke(np.concatenate([middle, middle[:1]]), width=pen)]
    else:
        strokes = [
            Stroke(ellipse(center, (radius, radius))),
            Stroke(ellipse(center, (radius - tyre, radius - tyre)), erase=True),
        ]
    for spoke in range(spokes):
        angle = turn + 2 * math.pi * spoke / spokes
        reach = radius - 0.5 * tyre
        tip = (center[0] + reach * math.cos(angle), center[1] + reach * math.sin(angle))
        strokes.append(Stroke(points(center, tip), width=pen))
    hub = max(1.0, 0.14 * radius)
    strokes.append(Stroke(ellipse(center, (hub, hub))))
    return strokes


def mast(foot: tuple[float, float], height: float, lean: float, pen: int) -> list[Stroke]:
    """Return a single upright line whose top is ``lean`` pixels to the side of its foot."""
    return [Stroke(points(foot, (foot[0] + lean, foot[1] - height)), width=pen)]


def lamp_post(foot: tuple[float, float], height: float, side: int, pen: int) -> list[Stroke]:
    """Return a mast with an arm to one ``side`` (-1 or 1) and a small lamp at its end."""
    top = foot[1] - height
    reach = foot[0] + side * 0.22 * height
    lamp = max(1.5, 0.035 * height)
    return [
        Stroke(points(foot, (foot[0], top)), width=pen),
        Stroke(points((foot[0], top), (reach, top - 0.03 * height)), width=max(1, pen - 1)),
        Stroke(ellipse((reach, top + 0.3 * lamp), (1.6 * lamp, lamp))),
    ]


def cross_arm_pole(
    foot: tuple[float, float], height: float, arm: float, pen: int
) -> tuple[list[Stroke], list[tuple[float, float]]]:
    """Return a utility pole with two cross arms; also the points where wires are fixed."""
    strokes = mast(foot, height, 0.0, pen)
    fixings = []
    for level in (1.0, 0.88):
        y = foot[1] - level * height + 1
        strokes.append(
            Stroke(points((foot[0] - arm, y), (foot[0] + arm, y)), width=max(1, pen - 1))
        )
        fixings += [(foot[0] - arm, y), (foot[0] + arm, y)]
    return strokes, fixings


def pylon(foot: tuple[float, float], height: float, base: float, pen: int) -> list[Stroke]:
    """Return a tapering lattice mast: two legs, rungs and crossing braces."""
    strokes = []
    levels = max(3, int(height / max(6.0, 1.3 * base)))

    def leg(side: int, level: float) -> tuple[float, float]:
        return (foot[0] + side * base * (1 - 0.85 * level), foot[1] - height * level)

    for side in (-1, 1):
        strokes.append(Stroke(points(leg(side, 0), leg(side, 1)), width=pen))
    for rung in range(levels):
        low, high = rung / levels, (rung + 1) / levels
        strokes.append(Stroke(points(leg(-1, low), leg(1, high)), width=max(1, pen - 1)))
        strokes.append(Stroke(points(leg(1, low), leg(-1, high)), width=max(1, pen - 1)))
        strokes.append(Stroke(points(leg(-1, high), leg(1, high)), width=max(1, pen - 1)))
    return strokes


def catenary(
    start: tuple[float, float], end: tuple[float, float], sag: float, pen: int
) -> list[Stroke]:
    """A hanging wire, drawn as a parabola that is ``sag`` pixels below its chord in the middle."""
    count = int(np.clip(abs(end[0] - start[0]) / 6, 6, 120))
    along = np.linspace(0, 1, count)
    x = start[0] + (end[0] - start[0]) * along
    y = start[1] + (end[1] - start[1]) * along + 4 * sag * along * (1 - along)
    return [Stroke(np.stack([x, y], axis=1), width=pen)]


def fence(line: PointArray, height: float, spacing: float, pen: int, pointed: bool) -> list[Stroke]:
    """Pickets ``spacing`` pixels apart along a base line (n x 2, left to right), and two rails."""
    strokes = []
    for level in (0.3, 0.75):
        strokes.append(Stroke(line - (0, level * height), width=max(1, pen - 1)))
    for x in np.arange(line[0, 0], line[-1, 0], spacing):
        y = float(np.interp(x, line[:, 0], line[:, 1]))
        if pointed and pen > 1:
            right, tip = x + pen - 1, y - height
            outline = points((x, y), (x, tip + pen), (x + (pen - 1) / 2, tip), (right, tip + pen))
            strokes.append(Stroke(np.concatenate([outline, points((right, y))])))
        else:
            strokes.append(Stroke(rectangle(x, y - height, x + pen - 1, y)))
    return strokes


def bare_tree(
    rng: np.random.Generator, foot: tuple[float, float], height: float, pen: int
) -> list[Stroke]:
    """Return a leafless tree: a trunk that forks four times into ever thinner branches."""
    strokes = []
    growing = [(foot, -math.pi / 2, 0.34 * height, pen + 1)]
    for _ in range(5):
        grown, growing = growing, []
        for start, angle, length, width in grown:
            end = (start[0] + length * math.cos(angle), start[1] + length * math.sin(angle))
            strokes.append(Stroke(points(start, end), width=max(1, width)))
            for side in (-1, 1):
                bend = side * float(rng.uniform(0.2, 0.65))
                part = float(rng.uniform(0.6, 0.85))
                growing.append((end, angle + bend, length * part, width - 1))
    return strokes


def conifer(
    rng: np.random.Generator, foot: tuple[float, float], height: float, spread: float
) -> list[Stroke]:
    """Return a fir: a stem under tiers whose lower edges are jagged."""
    stem = max(0.5, 0.06 * spread)
    strokes = [Stroke(rectangle(foot[0] - stem, foot[1] - 0.3 * height, foot[0] + stem, foot[1]))]
    tiers = int(rng.integers(3, 6))
    for tier in range(tiers):
        low = foot[1] - height * (0.12 + 0.72 * tier / tiers)
        reach = spread * (1 - 0.8 * tier / tiers)
        teeth = int(np.clip(reach, 3, 40))
        x = np.linspace(foot[0] + reach, foot[0] - reach, 2 * teeth + 1)
        droop = 0.12 * height * np.abs(x - foot[0]) / max(spread, 1)
        jag = (np.arange(2 * teeth + 1) % 2) * rng.uniform(0.03, 0.09) * height
        skirt = np.stack([x, low + droop - jag], axis=1)
        tip = points((foot[0], low - 1.35 * height * 0.88 / tiers))
        strokes.append(Stroke(np.concatenate([tip, skirt])))
    return strokes
