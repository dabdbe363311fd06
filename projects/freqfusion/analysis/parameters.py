"""How many numbers a module learns and keeps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ParameterCount:
    """Numbers in a module and its parts; one that is shared inside counts once.

    Args:
        trainable: Parameters that require gradients.
        frozen: Parameters that do not.
        buffers: Everything else that belongs to it, such as running means.
    """

    trainable: int
    frozen: int
    buffers: int

    @property
    def total(self) -> int:
        """All parameters, without buffers."""
        return self.trainable + self.frozen


def count_parameters(module: nn.Module) -> dict[str, ParameterCount]:
    """Name of each part, as in ``named_modules``, to its numbers; the whole has no name."""
    return {name: _count(part) for name, part in module.named_modules()}


def _count(part: nn.Module) -> ParameterCount:
    sizes = {True: 0, False: 0}
    for parameter in part.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    return ParameterCount(sizes[True], sizes[False], sum(b.numel() for b in part.buffers()))
