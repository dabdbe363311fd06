"""Textures of stuff: sky, grass, road, water, wall, fence.

A texture is a function from a window of the scene to a picture of that window (float32, 3 x height
x width, 0..255). The makers draw the instance's colours and scale from a generator; ``unit`` is
the size of the scene over 256.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from freqfusion.data.synthetic.arrays import FloatArray, IntArray
from freqfusion.data.synthetic.noise import (
    cloud_noise,
    mix,
    random_colour,
    smooth_noise,
)
from freqfusion.data.synthetic.shapes import Window

Texture = Callable[[Window], FloatArray]


def at_frequency(texture: Texture, factor: float) -> Texture:
    """The same pattern with ``factor`` times its spatial frequency.

    A coarser one is interpolated. Of a finer one pixels are picked, so that it keeps its contrast.
    """

    def along(start: int, count: int) -> tuple[int, IntArray, FloatArray]:
        """Where the pattern starts, and for each pixel its place in there and the part beyond."""
        places = np.arange(start, start + count) * factor
        first = int(np.floor(places[0]))
        whole = np.floor(places)
        beyond = (places - whole).astype(np.float32) * (factor < 1)
        return first, whole.astype(np.int64) - first, beyond

    def render(window: Window) -> FloatArray:
        top, rows, down = along(window.top, window.height)
        left, columns, right = along(window.left, window.width)
        height, width = int(rows[-1]) + 2, int(columns[-1]) + 2
        drawn = texture(Window(top, left, height, width))
        upper, lower = drawn[:, rows], drawn[:, rows + 1]
        lines = upper + (lower - upper) * down[:, None]
        near, far = lines[:, :, columns], lines[:, :, columns + 1]
        picture: FloatArray = near + (far - near) * right
        return picture

    return render


def sky(rng: np.random.Generator, unit: float) -> Texture:
    """A vertical gradient under drifting clouds; blue, grey or dusk."""
    zenith = random_colour(rng, (0.52, 0.72), (0.05, 0.75), (0.4, 0.95))
    glow = random_colour(
        rng, (-0.02, 0.14) if rng.random() < 0.3 else (0.5, 0.62), (0, 0.35), (0.7, 1)
    )
    cloud = random_colour(rng, (0, 1), (0, 0.08), (0.75, 1))
    cover = float(rng.uniform(-0.2, 0.5))

    def render(window: Window) -> FloatArray:
        height, width = window.height, window.width
        down = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        base = mix(zenith, glow, down)
        drift = cloud_noise(rng, height, width, max(10.0, 44 * unit))
        return mix(base, cloud, 1.6 * drift + cover)

    return render


def grass(rng: np.random.Generator, unit: float) -> Texture:
    """Upright blades one pixel wide over patches of two colours, green to straw."""
    fresh = random_colour(rng, (0.16, 0.36), (0.3, 0.75), (0.35, 0.75))
    dry = random_colour(rng, (0.1, 0.3), (0.25, 0.6), (0.4, 0.8))
    length = max(3.0, float(rng.uniform(4, 8)) * unit)

    def render(window: Window) -> FloatArray:
        height, width = window.height, window.width
        patches = smooth_noise(rng, height, width, (18 * unit, 30 * unit))
        blades = smooth_noise(rng, height, width, (length, 1))
        return mix(fresh, dry, 0.5 + 0.6 * patches) * (0.95 + 0.42 * blades)

    return render


def asphalt(rng: np.random.Generator, unit: float) -> Texture:
    """Grey to tan with pixel-fine grit and broad worn patches."""
    tone = random_colour(
        rng, (0.02, 0.14) if rng.random() < 0.4 else (0.5, 0.7), (0, 0.22), (0.3, 0.7)
    )

    def render(window: Window) -> FloatArray:
        height, width = window.height, window.width
        grit = rng.random((height, width), dtype=np.float32) - 0.5
        worn = smooth_noise(rng, height, width, (16 * unit, 40 * unit))
        return tone * (1 + 0.3 * grit + 0.1 * worn)

    return render


def water(rng: np.random.Generator, unit: float) -> Texture:
    """Ripples far wider than high, closer together further up, with bright glints."""
    deep = random_colour(rng, (0.42, 0.66), (0.15, 0.7), (0.25, 0.65))
    bright = random_colour(rng, (0.45, 0.62), (0, 0.4), (0.65, 1))
    pitch = max(2.2, float(rng.uniform(3, 5)) * unit)

    def render(window: Window) -> FloatArray:
        height, width = window.height, window.width
        y, _ = window.grid()
        warp = smooth_noise(rng, height, width, (8 * unit, 18 * unit))
        waves = np.sin(2 * np.pi * y / np.float32(pitch) + 3 * warp)
        ripples = smooth_noise(rng, height, width, (1, 9 * unit + 2))
        return mix(deep, bright, 0.35 + 0.3 * waves + 0.45 * ripples)

    return render


def bricks(rng: np.random.Generator, unit: float) -> Texture:
    """Courses of bricks, each of its own brightness, with mortar lines between them."""
    brick = random_colour(rng, (-0.04, 0.11), (0.1, 0.65), (0.4, 0.85))
    mortar = random_colour(rng, (0, 0.15), (0, 0.15), (0.25, 0.9))
    course = max(3, round(float(rng.uniform(5, 8)) * unit))
    length = course * 2 + 1
    line = max(1, round(unit))
    tones = rng.uniform(0.78, 1.15, size=(64, 64)).astype(np.float32)

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        row = y // course
        along = x + (row % 2) * (length // 2)
        column = along // length
        tone = tones[row.astype(np.int64) % 64, column.astype(np.int64) % 64]
        joint = (y % course < line) | (along % length < line)
        tone[joint] = 1
        tone += 0.16 * (rng.random((window.height, window.width), dtype=np.float32) - 0.5)
        return mix(brick, mortar, joint.astype(np.float32)) * tone

    return render


def wood(rng: np.random.Generator, unit: float) -> Texture:
    """Upright grain on pale or dark boards."""
    pale = rng.random() < 0.65
    board = random_colour(rng, (0.05, 0.12), (0, 0.4), (0.75, 1) if pale else (0.08, 0.3))

    def render(window: Window) -> FloatArray:
        grain = smooth_noise(rng, window.height, window.width, (7 * unit + 1, 1))
        return board * (0.95 + 0.14 * grain)

    return render
