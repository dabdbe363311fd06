"""Checks of what a caller passes in: each error says what came, what is allowed and what to do."""

from __future__ import annotations

import operator
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
