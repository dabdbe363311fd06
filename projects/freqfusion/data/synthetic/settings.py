"""Check the arguments of a scene: sizes, numbers, and the dials of its difficulty.

Each error says what came, what is allowed and what to do.
"""

from __future__ import annotations

import math
import numbers
import operator
from dataclasses import dataclass
from typing import SupportsIndex

SMALLEST_SIDE = 8


def check_index(name: str, value: SupportsIndex, least: int = 0) -> int:
    """Return ``value`` as an int; ValueError unless it is a whole number from ``least`` on."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number from {least} on, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    return number


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` as (height, width); ValueError unless both are whole numbers from 8 on."""
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"size must be (height, width) in whole pixels, not {size!r}") from None
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"size is {height}x{width}, but a scene needs at least {SMALLEST_SIDE} pixels on each"
            " side; choose a larger one"
        )
    return height, width


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value``; ValueError with the choices unless it is one of them."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
    return value


MOST = 16
"""The largest factor: beyond it a scene of usual size is all one thing or all noise."""

_POSITIVE = ("object_size", "texture_frequency")
_FROM_ZERO = ("contrast", "noise", "occlusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """Dials of a scene; without arguments, the scene as it always was, bit by bit.

    Scenes of one (seed, index) share their layout whatever the dials: the horizon, the things,
    where they stand, their colors, the light. ValueError for values that are not possible.

    line_thickness: pixels of every thin line (pickets and rails of fences, wires, poles, masts,
        lattices, wheels, bare branches), 1 to 16; None draws it at random by kind and distance.
    object_size: factor on the things that stand on the ground or fly, above 0.
    texture_frequency: factor on the patterns' spatial frequency, above 0; 2 makes bricks half as
        large. The shading of balls, stars and wheels is their shape and stays.
    contrast: factor on the difference of things, fences, walls, roads and water to what is behind
        them, pixel by pixel, 0 or more; at 0 they cannot be seen. Sky and grass stay.
    noise: factor on the camera's grain, 0 or more.
    occlusion: factor on the number of things, 0 or more; more of them hide each other.
    """

    line_thickness: int | None = None
    object_size: float = 1.0
    texture_frequency: float = 1.0
    contrast: float = 1.0
    noise: float = 1.0
    occlusion: float = 1.0

    def __post_init__(self) -> None:
        if self.line_thickness is not None:
            thickness = check_index("line_thickness", self.line_thickness, least=1)
            if thickness > MOST:
                raise ValueError(f"line_thickness must be 1 to {MOST} pixels, not {thickness}")
            object.__setattr__(self, "line_thickness", thickness)
        for name in (*_POSITIVE, *_FROM_ZERO):
            object.__setattr__(self, name, _factor(name, getattr(self, name)))


def check_difficulty(difficulty: Difficulty) -> Difficulty:
    """Return ``difficulty``; ValueError unless it is a ``Difficulty``."""
    if not isinstance(difficulty, Difficulty):
        raise ValueError(
            f"difficulty must be a Difficulty, for instance Difficulty(noise=2), not {difficulty!r}"
        )
    return difficulty


def _factor(name: str, value: object) -> float:
    positive = name in _POSITIVE
    allowed = f"a number {'above 0' if positive else 'of 0 or more'} and at most {MOST}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be {allowed}, not {value!r}")
    number = float(value)
    if not math.isfinite(number) or not 0 <= number <= MOST or (positive and number == 0):
        raise ValueError(f"{name} must be {allowed}, not {number:g}")
    return number
