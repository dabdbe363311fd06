"""Random fields and colors from which the textures are made.

Every function draws only from the generator it is given, so a scene is a function of its seed.
Fields are float32, height x width.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BoolArray = NDArray[np.bool_]
"""A mask, height x width."""

ByteArray = NDArray[np.uint8]
"""An RGB picture (height x width x 3) or a label map (height x width)."""

FloatArray = NDArray[np.float32]
"""A picture being painted (3 x height x width, 0..255), a color (3 x 1 x 1), or a noise field."""

IdArray = NDArray[np.int32]
"""A map of segment ids, height x width, 0 for void."""

IntArray = NDArray[np.int64]
"""Counts, indices and polygon corners."""

PointArray = NDArray[np.float64]
"""Corners of an outline, n x 2, (x, y) in pixels."""


Range = tuple[float, float]


def smooth_noise(
    rng: np.random.Generator, height: int, width: int, cell: tuple[float, float]
) -> FloatArray:
    """Noise in about [-1, 1] whose features are ``cell`` = (height, width) pixels large.

    A cell of one pixel gives white noise; unequal sides give streaks (grass, ripples, wood).
    """
    rows = max(2, math.ceil(height / max(cell[0], 1.0)) + 1)
    columns = max(2, math.ceil(width / max(cell[1], 1.0)) + 1)
    grid = rng.random((rows, columns), dtype=np.float32) * 2 - 1
    if rows > height and columns > width:
        return grid[:height, :width]
    resized = Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def cloud_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> FloatArray:
    """Three octaves of smooth noise in about [-1, 1], the coarsest ``cell`` pixels large."""
    field = np.zeros((height, width), dtype=np.float32)
    for octave, weight in enumerate((0.57, 0.29, 0.14)):
        side = max(cell / 2**octave, 1.0)
        field += np.float32(weight) * smooth_noise(rng, height, width, (side, side))
    return field


def profile_noise(rng: np.random.Generator, count: int, cell: float) -> FloatArray:
    """A line of ``count`` noise values in [-1, 1] with features ``cell`` values long."""
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
