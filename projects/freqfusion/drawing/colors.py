"""Colors: well separated ones, shades of one, and ink that can be read on it.

Distances are measured in Oklab, where equal steps look equal (B. Ottosson, "A perceptual color
space for image processing", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]
FloatArray = NDArray[np.float64]

BLACK: RGB = (0, 0, 0)
WHITE: RGB = (255, 255, 255)
VOID_COLOR: RGB = (128, 128, 128)

_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
_FIRST: RGB = (31, 119, 180)
# Lightness and hue (in radians) of an instance against the first of its class.
_SHADES = ((0.0, 0.0), (0.13, 0.25), (-0.12, -0.25), (0.07, -0.5), (-0.06, 0.5), (0.18, 0.0))


def palette(count: int) -> list[RGB]:
    """Return ``count`` colors far from each other, from black, from white and from gray.

    Each is the one farthest from all before it, so a longer palette begins with a shorter one. Past
    a few hundred they begin to repeat.
    """
    if count < 0:
        raise ValueError(f"a palette has 0 or more colors, not {count}")
    full = _full_palette()
    return [full[at % len(full)] for at in range(count)]


def shade(color: RGB, step: int) -> RGB:
    """Return a shade for the ``step``-th instance of a class; 0 is the color itself."""
    lighter, turn = _SHADES[step % len(_SHADES)]
    if not lighter and not turn:
        return color
    light, a, b = to_oklab(np.array(color, dtype=np.float64))
    # A dark color gets lighter where it cannot get darker, and the other way round.
    if (lighter < 0 and light + lighter < 0.2) or (lighter > 0 and light + lighter > 0.97):
        lighter = -lighter
    cos, sin = np.cos(turn), np.sin(turn)
    turned = np.array([light + lighter, a * cos - b * sin, a * sin + b * cos])
    red, green, blue = from_oklab(turned).tolist()
    return red, green, blue


def ink_on(color: Sequence[int]) -> RGB:
    """Return black or white, whichever stands out more on ``color``."""
    light = float(to_oklab(np.array(color, dtype=np.float64))[0])
    return BLACK if light > 0.63 else WHITE


def to_oklab(colors: FloatArray) -> FloatArray:
    """Return lightness, green-red and blue-yellow (... x 3) of sRGB colors 0..255 (... x 3)."""
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    lab: FloatArray = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab


def from_oklab(lab: FloatArray) -> NDArray[np.uint8]:
    """Return the nearest sRGB colors (... x 3, uint8) that a screen has."""
    cones = (lab @ np.linalg.inv(_TO_LAB).T) ** 3
    linear = np.clip(cones @ np.linalg.inv(_TO_CONES).T, 0, 1)
    share = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * share).astype(np.uint8)


@cache
def _full_palette(count: int = 256) -> tuple[RGB, ...]:
    steps = np.linspace(0, 255, 18)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = to_oklab(grid)
    # Neither gray nor glaring, and light enough to be seen in a dark picture.
    strength, light = np.hypot(lab[:, 1], lab[:, 2]), lab[:, 0]
    good = (strength > 0.07) & (strength < 0.21) & (light > 0.42) & (light < 0.9)
    grid, lab = grid[good], lab[good]
    taken = np.array([BLACK, WHITE, VOID_COLOR, _FIRST], dtype=np.float64)
    distance = np.min(np.linalg.norm(lab[:, None] - to_oklab(taken), axis=-1), axis=1)
    colors = [_FIRST]
    while len(colors) < count:
        at = int(np.argmax(distance))
        red, green, blue = np.round(grid[at]).astype(int).tolist()
        colors.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[at], axis=-1))
    return tuple(colors)
