"""Textures of stuff: sky, grass, road, water, wall, fence.

A texture is a function from a window of the scene to a image of that window (float32, 3 x height
x width, 0..255). The makers draw the instance's colors and scale from a generator; ``unit`` is
the size of the scene over 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from freqfusion.data.synthetic.shapes import (
    FloatArray,
    Window,
    cloud_noise,
    mix,
    random_color,
    smooth_noise,
)

Texture = Callable[[Window], FloatArray]


def sky(rng: np.random.Generator, unit: float) -> Texture:
    """Return a vertical gradient under drifting clouds; blue, grey or dusk."""
    zenith = random_color(rng, (0.52, 0.72), (0.05, 0.75), (0.4, 0.95))
    glow = random_color(
        rng, (-0.02, 0.14) if rng.random() < 0.3 else (0.5, 0.62), (0, 0.35), (0.7, 1)
    )
    cloud = random_color(rng, (0, 1), (0, 0.08), (0.75, 1))
    cover = float(rng.uniform(-0.2, 0.5))

    def render(window: Window) -> FloatArray:
        down = np.linspace(0, 1, window.height, dtype=np.float32)[:, None]
        base = mix(zenith, glow, down)
        drift = cloud_noise(rng, window.size, max(10.0, 44 * unit))
        return mix(base, cloud, 1.6 * drift + cover)

    return render


def grass(rng: np.random.Generator, unit: float) -> Texture:
    """Return upright blades one pixel wide over patches of two colors, green to straw."""
    fresh = random_color(rng, (0.16, 0.36), (0.3, 0.75), (0.35, 0.75))
    dry = random_color(rng, (0.1, 0.3), (0.25, 0.6), (0.4, 0.8))
    length = max(3.0, float(rng.uniform(4, 8)) * unit)

    def render(window: Window) -> FloatArray:
        patches = smooth_noise(rng, window.size, (18 * unit, 30 * unit))
        blades = smooth_noise(rng, window.size, (length, 1))
        return mix(fresh, dry, 0.5 + 0.6 * patches) * (0.95 + 0.42 * blades)

    return render


def asphalt(rng: np.random.Generator, unit: float) -> Texture:
    """Return grey to tan asphalt with pixel-fine grit and broad worn patches."""
    tone = random_color(
        rng, (0.02, 0.14) if rng.random() < 0.4 else (0.5, 0.7), (0, 0.22), (0.3, 0.7)
    )

    def render(window: Window) -> FloatArray:
        grit = rng.random(window.size, dtype=np.float32) - 0.5
        worn = smooth_noise(rng, window.size, (16 * unit, 40 * unit))
        return tone * (1 + 0.3 * grit + 0.1 * worn)

    return render


def water(rng: np.random.Generator, unit: float) -> Texture:
    """Return ripples far wider than high, closer together further up, with bright glints."""
    deep = random_color(rng, (0.42, 0.66), (0.15, 0.7), (0.25, 0.65))
    bright = random_color(rng, (0.45, 0.62), (0, 0.4), (0.65, 1))
    pitch = max(2.2, float(rng.uniform(3, 5)) * unit)

    def render(window: Window) -> FloatArray:
        y, _ = window.grid()
        warp = smooth_noise(rng, window.size, (8 * unit, 18 * unit))
        waves = np.sin(2 * np.pi * y / np.float32(pitch) + 3 * warp)
        ripples = smooth_noise(rng, window.size, (1, 9 * unit + 2))
        return mix(deep, bright, 0.35 + 0.3 * waves + 0.45 * ripples)

    return render


def bricks(rng: np.random.Generator, unit: float) -> Texture:
    """Return courses of bricks, each of its own brightness, with mortar lines between them."""
    brick = random_color(rng, (-0.04, 0.11), (0.1, 0.65), (0.4, 0.85))
    mortar = random_color(rng, (0, 0.15), (0, 0.15), (0.25, 0.9))
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
        tone += 0.16 * (rng.random(window.size, dtype=np.float32) - 0.5)
        return mix(brick, mortar, joint.astype(np.float32)) * tone

    return render


def wood(rng: np.random.Generator, unit: float) -> Texture:
    """Return upright grain on pale or dark boards."""
    pale = rng.random() < 0.65
    board = random_color(rng, (0.05, 0.12), (0, 0.4), (0.75, 1) if pale else (0.08, 0.3))

    def render(window: Window) -> FloatArray:
        grain = smooth_noise(rng, window.size, (7 * unit + 1, 1))
        return board * (0.95 + 0.14 * grain)

    return render


def ball(rng: np.random.Generator, center: tuple[float, float], radius: float) -> Texture:
    """Return concentric rings of two colors under round shading with a highlight."""
    first = random_color(rng, (0, 1), (0.3, 0.95), (0.45, 1))
    second = random_color(rng, (0, 1), (0, 0.9), (0.3, 1))
    rings = float(rng.uniform(1.5, 3.5))

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        dy, dx = (y - center[1]) / radius, (x - center[0]) / radius
        distance = np.sqrt(dy * dy + dx * dx)
        light = np.sqrt((dy + 0.35) ** 2 + (dx + 0.35) ** 2)
        ring = (np.floor(distance * rings) % 2).astype(np.float32)
        brightness = np.clip(1.3 - 0.62 * light, 0.3, 1.25).astype(np.float32)
        return mix(first, second, ring) * (brightness)

    return render


def facets(
    rng: np.random.Generator, center: tuple[float, float], rays: int, turn: float
) -> Texture:
    """Return the two halves of each ray in a light and a dark tone, as on a compass rose."""
    light = random_color(rng, (0, 1), (0.15, 0.9), (0.65, 1))
    dark = light * np.float32(rng.uniform(0.35, 0.6))

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        angle = np.arctan2(y - center[1], x - center[0]) - np.float32(turn)
        half = np.floor(angle * np.float32(rays / math.pi)) % 2
        return mix(light, dark, half.astype(np.float32))

    return render


def planks(rng: np.random.Generator, unit: float, brightness: float = 1.0) -> Texture:
    """Return diagonal or level boards with dark gaps between them."""
    tone = random_color(rng, (0, 1), (0.1, 0.8), (0.4, 1)) * np.float32(brightness)
    pitch = max(3.0, float(rng.uniform(3.5, 6.5)) * unit)
    slope = float(rng.choice([0.0, 1.0, -1.0]))

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        along = (y + slope * x) / pitch
        gap = (along % 1 < 0.28).astype(np.float32)
        grain = rng.random(window.size, dtype=np.float32) - 0.5
        return tone * (1 - 0.45 * gap + 0.12 * grain)

    return render


def tyre(rng: np.random.Generator, center: tuple[float, float], radius: float) -> Texture:
    """Return dark rubber outside and bright metal inside."""
    rubber = random_color(rng, (0, 1), (0, 0.25), (0.04, 0.3))
    metal = random_color(rng, (0, 1), (0, 0.5), (0.65, 1))
    rim = 0.86 * radius

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        distance = np.sqrt((y - center[1]) ** 2 + (x - center[0]) ** 2)
        return mix(rubber, metal, (distance < rim).astype(np.float32))

    return render


def metal(rng: np.random.Generator, unit: float) -> Texture:
    """Return a plain dark or pale tone, or level bands of two colors (a barrier post)."""
    pale = rng.random() < 0.4
    tone = random_color(rng, (0, 1), (0, 0.3), (0.75, 1) if pale else (0.05, 0.4))
    band = random_color(rng, (-0.05, 0.13), (0.7, 1), (0.6, 1)) if rng.random() < 0.35 else tone
    pitch = max(3.0, float(rng.uniform(4, 9)) * unit)

    def render(window: Window) -> FloatArray:
        y, _ = window.grid()
        level = (y / pitch % 2 < 1).astype(np.float32)
        grain = rng.random(window.size, dtype=np.float32) - 0.5
        return mix(tone, band, level) * (1 + 0.15 * grain)

    return render


def cable(rng: np.random.Generator) -> Texture:
    """Return a nearly black line, now and then a white or colored one."""
    value = (0.75, 1.0) if rng.random() < 0.2 else (0.0, 0.22)
    tone = random_color(rng, (0, 1), (0, 0.5), value)

    def render(window: Window) -> FloatArray:
        return np.broadcast_to(tone, (3, *window.size))

    return render


def leaves(rng: np.random.Generator, unit: float) -> Texture:
    """Return specks two or three pixels large, green or autumnal, darker towards the ground."""
    hue = (0.02, 0.14) if rng.random() < 0.25 else (0.2, 0.42)
    leaf = random_color(rng, hue, (0.3, 0.8), (0.3, 0.65))
    speck = max(1.5, 2.2 * unit)

    def render(window: Window) -> FloatArray:
        specks = smooth_noise(rng, window.size, (speck, speck))
        clumps = smooth_noise(rng, window.size, (5 * speck, 5 * speck))
        down = np.linspace(0.15, -0.25, window.height, dtype=np.float32)[:, None]
        return leaf * (np.clip(0.9 + 0.6 * specks + 0.3 * clumps + down, 0.15, 2))

    return render


def bark(rng: np.random.Generator, unit: float) -> Texture:
    """Return dark upright grain of trunks and bare branches."""
    tone = random_color(rng, (0.02, 0.12), (0.1, 0.5), (0.1, 0.4))

    def render(window: Window) -> FloatArray:
        grain = smooth_noise(rng, window.size, (4 * unit + 1, 1))
        return tone * (1 + 0.3 * grain)

    return render


def smudge(rng: np.random.Generator) -> Texture:
    """Return a flat, blotchy color, for something that nobody labeled."""
    tone = random_color(rng, (0, 1), (0, 1), (0.2, 0.9))

    def render(window: Window) -> FloatArray:
        blotches = smooth_noise(rng, window.size, (3, 3))
        return tone * (1 + 0.2 * blotches)

    return render
