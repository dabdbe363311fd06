"""Textures of things: shaded balls, faceted stars, planked boxes, wheels, poles, wires, leaves.

As in ``stuff_textures``, each maker returns a function from a window of the scene to a picture of
it. Colours vary freely between instances; the pattern is what tells the class.
"""

from __future__ import annotations

import math

import numpy as np

from freqfusion.data.synthetic.arrays import FloatArray
from freqfusion.data.synthetic.noise import mix, random_colour, smooth_noise
from freqfusion.data.synthetic.shapes import Window
from freqfusion.data.synthetic.stuff_textures import Texture


def ball(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Texture:
    """Round shading with a highlight at the upper left, over concentric rings of two colours."""
    first = random_colour(rng, (0, 1), (0.3, 0.95), (0.45, 1))
    second = random_colour(rng, (0, 1), (0, 0.9), (0.3, 1))
    rings = float(rng.uniform(1.5, 3.5))

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        dy, dx = (y - centre[1]) / radius, (x - centre[0]) / radius
        distance = np.sqrt(dy * dy + dx * dx)
        light = np.sqrt((dy + 0.35) ** 2 + (dx + 0.35) ** 2)
        ring = (np.floor(distance * rings) % 2).astype(np.float32)
        brightness = np.clip(1.3 - 0.62 * light, 0.3, 1.25).astype(np.float32)
        return mix(first, second, ring) * (brightness)

    return render


def facets(
    rng: np.random.Generator, centre: tuple[float, float], rays: int, turn: float
) -> Texture:
    """The two halves of each ray in a light and a dark tone, as on a compass rose."""
    light = random_colour(rng, (0, 1), (0.15, 0.9), (0.65, 1))
    dark = light * np.float32(rng.uniform(0.35, 0.6))

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        angle = np.arctan2(y - centre[1], x - centre[0]) - np.float32(turn)
        half = np.floor(angle * np.float32(rays / math.pi)) % 2
        return mix(light, dark, half.astype(np.float32))

    return render


def planks(rng: np.random.Generator, unit: float, brightness: float = 1.0) -> Texture:
    """Diagonal or level boards with dark gaps between them."""
    tone = random_colour(rng, (0, 1), (0.1, 0.8), (0.4, 1)) * np.float32(brightness)
    pitch = max(3.0, float(rng.uniform(3.5, 6.5)) * unit)
    slope = float(rng.choice([0.0, 1.0, -1.0]))

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        along = (y + slope * x) / pitch
        gap = (along % 1 < 0.28).astype(np.float32)
        grain = rng.random((window.height, window.width), dtype=np.float32) - 0.5
        return tone * (1 - 0.45 * gap + 0.12 * grain)

    return render


def tyre(rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Texture:
    """Dark rubber outside, bright metal inside."""
    rubber = random_colour(rng, (0, 1), (0, 0.25), (0.04, 0.3))
    metal = random_colour(rng, (0, 1), (0, 0.5), (0.65, 1))
    rim = 0.86 * radius

    def render(window: Window) -> FloatArray:
        y, x = window.grid()
        distance = np.sqrt((y - centre[1]) ** 2 + (x - centre[0]) ** 2)
        return mix(rubber, metal, (distance < rim).astype(np.float32))

    return render


def metal(rng: np.random.Generator, unit: float) -> Texture:
    """A plain dark or pale tone, or level bands of two colours (a barrier post)."""
    pale = rng.random() < 0.4
    tone = random_colour(rng, (0, 1), (0, 0.3), (0.75, 1) if pale else (0.05, 0.4))
    band = random_colour(rng, (-0.05, 0.13), (0.7, 1), (0.6, 1)) if rng.random() < 0.35 else tone
    pitch = max(3.0, float(rng.uniform(4, 9)) * unit)

    def render(window: Window) -> FloatArray:
        y, _ = window.grid()
        level = (y / pitch % 2 < 1).astype(np.float32)
        grain = rng.random((window.height, window.width), dtype=np.float32) - 0.5
        return mix(tone, band, level) * (1 + 0.15 * grain)

    return render


def cable(rng: np.random.Generator) -> Texture:
    """A nearly black line, now and then a white or coloured one."""
    value = (0.75, 1.0) if rng.random() < 0.2 else (0.0, 0.22)
    tone = random_colour(rng, (0, 1), (0, 0.5), value)

    def render(window: Window) -> FloatArray:
        return np.broadcast_to(tone, (3, window.height, window.width))

    return render


def leaves(rng: np.random.Generator, unit: float) -> Texture:
    """Specks two or three pixels large, green or autumnal, darker towards the ground."""
    hue = (0.02, 0.14) if rng.random() < 0.25 else (0.2, 0.42)
    leaf = random_colour(rng, hue, (0.3, 0.8), (0.3, 0.65))
    speck = max(1.5, 2.2 * unit)

    def render(window: Window) -> FloatArray:
        height, width = window.height, window.width
        specks = smooth_noise(rng, height, width, (speck, speck))
        clumps = smooth_noise(rng, height, width, (5 * speck, 5 * speck))
        down = np.linspace(0.15, -0.25, height, dtype=np.float32)[:, None]
        return leaf * (np.clip(0.9 + 0.6 * specks + 0.3 * clumps + down, 0.15, 2))

    return render


def bark(rng: np.random.Generator, unit: float) -> Texture:
    """Dark upright grain of trunks and bare branches."""
    tone = random_colour(rng, (0.02, 0.12), (0.1, 0.5), (0.1, 0.4))

    def render(window: Window) -> FloatArray:
        grain = smooth_noise(rng, window.height, window.width, (4 * unit + 1, 1))
        return tone * (1 + 0.3 * grain)

    return render


def smudge(rng: np.random.Generator) -> Texture:
    """Something nobody labelled: a flat, blotchy colour."""
    tone = random_colour(rng, (0, 1), (0, 1), (0.2, 0.9))

    def render(window: Window) -> FloatArray:
        blotches = smooth_noise(rng, window.height, window.width, (3, 3))
        return tone * (1 + 0.2 * blotches)

    return render
