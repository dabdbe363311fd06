"""Outlines, and how they become pixels.

A shape is a list of strokes: filled outlines and lines some pixels wide, drawn one over the other;
a stroke may also erase, which makes holes. Points are (x, y) in pixels of the whole scene and may
lie outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from freqfusion.data.synthetic.arrays import BoolArray, FloatArray, PointArray
from freqfusion.data.synthetic.noise import profile_noise


@dataclass(frozen=True, slots=True)
class Stroke:
    """A filled outline (``width`` 0) or a line ``width`` pixels wide; ``erase`` takes away.

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

    def grid(self) -> tuple[FloatArray, FloatArray]:
        """Scene coordinates y (height x 1) and x (1 x width) of the window's pixels."""
        y = np.arange(self.top, self.top + self.height, dtype=np.float32)[:, None]
        x = np.arange(self.left, self.left + self.width, dtype=np.float32)[None, :]
        return y, x

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in an array of the scene's size."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


@dataclass(frozen=True, slots=True)
class Patch:
    """The pixels of a shape: a window of the scene and a mask of the window's size."""

    window: Window
    mask: BoolArray


def rasterise(strokes: Sequence[Stroke], size: tuple[int, int]) -> Patch | None:
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
    picture = Image.new("L", (right - left, bottom - top))
    draw = ImageDraw.Draw(picture)
    for stroke in strokes:
        coordinates = (stroke.points - (left, top)).ravel().tolist()
        if stroke.exact and stroke.width > 1:
            _draw_exactly(draw, stroke.points - (left, top), stroke.width)
        elif stroke.width:
            draw.line(coordinates, fill=0 if stroke.erase else 1, width=stroke.width)
        else:
            draw.polygon(coordinates, fill=0 if stroke.erase else 1)
    mask = np.asarray(picture).astype(np.bool_)
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
    """The given (x, y) pairs as an array."""
    return np.array(pairs, dtype=np.float64)


def ellipse(centre: tuple[float, float], radii: tuple[float, float]) -> PointArray:
    """Outline of an axis-aligned ellipse, with corners about two pixels apart."""
    count = int(np.clip(3 * max(radii), 8, 200))
    angle = np.arange(count, dtype=np.float64) * (2 * np.pi / count)
    return _around(centre, radii[0], radii[1], angle)


def star(
    centre: tuple[float, float], radius: float, inner: float, rays: int, turn: float
) -> PointArray:
    """Outline of a star with ``rays`` tips; ``inner`` is the inner radius over the outer one."""
    angle = turn + np.arange(2 * rays) * np.pi / rays
    reach = np.where(np.arange(2 * rays) % 2 == 0, radius, radius * inner)
    return _around(centre, reach, reach, angle)


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radii: tuple[float, float],
    raggedness: float,
) -> PointArray:
    """A closed outline that wanders, finely and coarsely, by up to ``raggedness`` of its radius."""
    count = int(np.clip(4 * max(radii), 12, 400))
    angle = np.arange(count, dtype=np.float64) * (2 * np.pi / count)
    coarse = 0.6 * profile_noise(rng, count, count / 9) + 0.5 * profile_noise(rng, count, 2)
    # Fade the wander out at both ends, where the outline closes.
    reach = 1 + raggedness * coarse * np.minimum(1, 6 * np.sin(angle / 2))
    return _around(centre, radii[0] * reach, radii[1] * reach, angle)


def rectangle(left: float, top: float, right: float, bottom: float) -> PointArray:
    """Corners of an axis-aligned rectangle."""
    return points((left, top), (right, top), (right, bottom), (left, bottom))


def turned(outline: PointArray, centre: tuple[float, float], angle: float) -> PointArray:
    """Turn an outline about ``centre`` by ``angle`` radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    matrix = np.array([[cosine, sine], [-sine, cosine]])
    return np.asarray((outline - centre) @ matrix + centre, dtype=np.float64)


def _around(
    centre: tuple[float, float],
    reach_x: float | PointArray,
    reach_y: float | PointArray,
    angle: PointArray,
) -> PointArray:
    """Points at the given angles and distances from ``centre``."""
    outline = np.empty((len(angle), 2))
    outline[:, 0] = centre[0] + reach_x * np.cos(angle)
    outline[:, 1] = centre[1] + reach_y * np.sin(angle)
    return outline
