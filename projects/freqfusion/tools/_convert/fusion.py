"""Names of one FreqFusion module in the research code and here, and its recomputable buffers."""

from collections.abc import Mapping

import torch
from torch import Tensor

from freqfusion.layers.freqfusion import ORIGINAL_BUFFERS, ORIGINAL_NAMES
from freqfusion.layers.sampler import ORIGINAL_BUFFERS as SAMPLER_BUFFERS
from freqfusion.layers.sampler import ORIGINAL_NAMES as SAMPLER_NAMES

_SAMPLER = "dysampler."
# The one part of the sampler that is called here as it was there.
_KEPT = {"hr_offset.": "hr_offset."}
# Beginnings of names, there and here; what follows is "weight" or "bias".
PARTS = {old: new for old, new in ORIGINAL_NAMES.items() if old != _SAMPLER} | {
    _SAMPLER + old: ORIGINAL_NAMES[_SAMPLER] + new for old, new in (SAMPLER_NAMES | _KEPT).items()
}
_WINDOWS = list(ORIGINAL_BUFFERS)
_POSITIONS = [_SAMPLER + name for name in SAMPLER_BUFFERS]
BUFFERS = [*_WINDOWS, *_POSITIONS]


def buffers_without_window(groups: int | None, like: Tensor) -> dict[str, Tensor]:
    """The buffers that the research code's module has when it was built without Hamming windows.

    Args:
        groups: Channel groups of the offset generator; ``None`` where there is none.
        like: Has their type.
    """
    buffers = {name: like.new_ones(1) for name in _WINDOWS}
    if groups is None:
        return buffers
    # From the centre of a coarse pixel to those of its four fine pixels, in coarse pixels: first
    # all x, then all y, each for all groups, rows and columns.
    step = torch.tensor([-0.25, 0.25], dtype=like.dtype, device=like.device)
    y, x = torch.meshgrid(step, step, indexing="ij")
    positions = torch.stack([x, y]).flatten(1).repeat(1, groups).view(1, -1, 1, 1)
    return buffers | dict.fromkeys(_POSITIONS, positions)


def under_original_names(state: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """The weights of one of our modules, whose names begin so, under the research code's names."""
    return {
        old + kind: state[beginning + new + kind]
        for old, new in PARTS.items()
        for kind in ("weight", "bias")
        if beginning + new + kind in state
    }
