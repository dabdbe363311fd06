"""Checks of arguments that several layers share."""

from typing import Any, get_args

import torch
from torch import Tensor


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


def check_floating(*, like: Tensor | None = None, **tensors: Tensor) -> None:
    """Refuse what is no tensor of floating-point numbers, each under its argument's name.

    With ``like``, a weight, the dtype must be its own, except under autocast, which casts.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
        if like is None or tensor.dtype == like.dtype:
            continue
        if not torch.is_autocast_enabled(tensor.device.type):
            raise ValueError(
                f"{name} must be {like.dtype}, as the weights of this module are, got "
                f"{tensor.dtype}: convert one of them with .to(), or use torch.autocast"
            )


def check_map(
    name: str, image: Tensor, channels: int | None = None, *, like: Tensor | None = None
) -> None:
    """Refuse what is no (batch, channels, height, width) map of floating-point numbers.

    Only the batch may be empty. For ``like`` see :func:`check_floating`.
    """
    check_floating(like=like, **{name: image})
    shape = image.shape
    is_empty = 0 in shape[1:]
    if len(shape) != 4 or is_empty or channels not in (None, shape[1]):
        raise ValueError(
            f"{name} must be (batch, {channels or 'channels'}, height, width), got "
            f"{tuple(shape)}{', which is empty' if is_empty else ''}"
        )


def check_same_batch(**maps: Tensor) -> None:
    """Refuse maps of several batch sizes."""
    sizes = [image.shape[0] for image in maps.values()]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            f"{' and '.join(maps)} must have the same batch size, got "
            f"{' and '.join(map(str, sizes))}"
        )
