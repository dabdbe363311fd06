"""What backbones of several stages share: checks, outputs ``res2``, ``res3``, ..., rates.

A stage has a map of half the size of the one before; the first one, ``res2``, has stride 4.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

_FIRST_STAGE = 2


def check_stages(**numbers: Sequence[float]) -> None:
    """Raise ValueError unless each of the sequences has a positive number for every stage."""
    names, values = list(numbers), [list(value) for value in numbers.values()]
    if not values[0] or len({len(value) for value in values}) > 1:
        raise ValueError(
            f"{' and '.join(names)} must have a number for each stage, and at least one; got "
            f"{' and '.join(map(str, values))}"
        )
    for name, value in zip(names, values, strict=True):
        if min(value) < 1:
            raise ValueError(f"{name} must be positive, got {value}")


def check_rates(channels: int, mlp_ratio: float, drop_path_rate: float) -> None:
    """Raise ValueError for perceptrons without a width and for no rate of stochastic depth."""
    if channels * mlp_ratio < 1:
        raise ValueError(
            f"mlp_ratio must leave the perceptrons a width, got {mlp_ratio} of {channels} channels"
        )
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate must be from 0 to below 1, got {drop_path_rate}")


def check_images(images: Tensor, channels: int) -> None:
    """Raise ValueError unless the images are (B, channels, H, W) and have pixels."""
    if images.dim() != 4 or images.shape[1] != channels or images.numel() == 0:
        raise ValueError(
            f"images must be (batch, {channels}, height, width) with at least one pixel, got "
            f"{tuple(images.shape)}"
        )


def set_outputs(backbone: Backbone, widths: Sequence[int], out_features: Sequence[str]) -> None:
    """Tell Detectron2 the names, strides and channels of the maps of a backbone's stages.

    Args:
        backbone: Returns the stages of ``out_features`` afterwards, from fine to coarse.
        widths: Channels of each stage.
        out_features: Some of ``res2``, ``res3``, ...

    Raises:
        ValueError: if ``out_features`` names no stage, or one that does not exist.
    """
    channels = {stage_name(index): width for index, width in enumerate(widths)}
    unknown = [name for name in out_features if name not in channels]
    if unknown or not out_features:
        raise ValueError(
            f"out_features must name some of the stages {', '.join(channels)}, got "
            f"{', '.join(out_features) or 'none'}"
        )
    backbone._out_features = [name for name in channels if name in out_features]
    backbone._out_feature_channels = channels
    backbone._out_feature_strides = {name: 4 * 2**i for i, name in enumerate(channels)}


def stage_name(index: int) -> str:
    """Return ``res2`` for stage 0, ``res3`` for stage 1, ..."""
    return f"res{_FIRST_STAGE + index}"


def growing_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Return a rate for each block of each stage, from 0 to ``last`` in equal steps."""
    steps = iter(range(sum(depths)))
    return [[last * next(steps) / max(sum(depths) - 1, 1) for _ in range(n)] for n in depths]


def drop_path(rate: float) -> nn.Module:
    """Return stochastic depth (Huang et al., ECCV 2016) of whole images; without a rate nothing."""
    return StochasticDepth(rate, "row") if rate > 0 else nn.Identity()


def run_blocks(blocks: nn.ModuleList, maps: Tensor, *args: Any, use_checkpoint: bool) -> Tensor:
    """Return what blocks one after another make of maps; each recomputed if it is checkpointed."""
    for block in blocks:
        if use_checkpoint and torch.is_grad_enabled():
            maps = checkpoint(block, maps, *args, use_reentrant=False)
        else:
            maps = block(maps, *args)
    return maps
