"""Checks of constructor arguments that several layers share."""

from typing import Any, get_args


def check_positive(**values: int) -> None:
    """Refuse numbers below one, each under its argument's name."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")


def check_odd(**sizes: int) -> None:
    """Refuse kernel sizes that have no centre."""
    for name, size in sizes.items():
        if size < 1 or size % 2 == 0:
            raise ValueError(
                f"{name} must be a positive odd number, since a kernel is centred on its pixel; "
                f"got {size}"
            )


def check_choice(literal: Any, **values: str) -> None:
    """Refuse words that are not among those of a ``typing.Literal``."""
    choices = get_args(literal)
    for name, value in values.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {choices}, got {value!r}")
