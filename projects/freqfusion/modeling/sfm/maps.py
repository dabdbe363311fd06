"""Maps in the layouts that backbones hand them on in, and back."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Restore = Callable[[Tensor], Tensor]


def to_channels_first(
    args: tuple[Any, ...], *, channels: int, channels_last: bool, where: str
) -> tuple[Tensor, Restore]:
    """View the map that a module is called with as (B, C, H, W).

    Args:
        args: Of the call: (B, C, H, W), (B, H, W, C), or tokens (B, H * W, C) followed by H and W.
        channels: C.
        channels_last: What to take where C is also the height or the width.
        where: Names the module in messages.

    Returns:
        The map, and what brings a map of its shape back into the layout that came.

    Raises:
        ValueError: if there is no such map.
    """
    maps = args[0] if args else None
    shape = tuple(maps.shape) if isinstance(maps, Tensor) else ()
    if isinstance(maps, Tensor) and len(shape) == 3 and len(args) >= 3 and shape[2] == channels:
        height, width = args[1:3]
        if height * width == shape[1]:
            return maps.transpose(1, 2).unflatten(2, (height, width)), _to_tokens
    if isinstance(maps, Tensor) and len(shape) == 4:
        first, last = shape[1] == channels, shape[3] == channels
        if last and (channels_last or not first):
            return maps.permute(0, 3, 1, 2), _to_channels_last
        if first:
            return maps, _as_it_is
    raise ValueError(
        f"{where} must be called with a map of {channels} channels to be resampled, got "
        f"{shape or type(maps).__name__}: name another module in MODEL.SFM.POINTS"
    )


def _as_it_is(maps: Tensor) -> Tensor:
    return maps


def _to_channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)


def _to_tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)
