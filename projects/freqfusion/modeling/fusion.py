"""The fusion modules that a configuration names."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from freqfusion.layers import (
    CarafeUpsampling,
    DySampleUpsampling,
    FreqFusion,
    InterpolationUpsampling,
)

# Builds the module that joins maps of so many fine and coarse channels. Called with ``hr_feat`` and
# ``lr_feat`` it returns something, the fine map and the coarse map at the fine size.
FusionFactory = Callable[[int, int], nn.Module]

_NOT_ARGUMENTS = ("ENABLED", "FUSE_TYPE", "FUSED_TOP_LEVEL", "COMPRESS_RATIO")


def fusion_factory(cfg: CfgNode) -> FusionFactory:
    """How ``MODEL.FREQFUSION`` joins a coarse map with a fine one."""
    node = cfg.MODEL.FREQFUSION
    kind = node.FUSE_TYPE

    def freqfusion(hr_channels: int, lr_channels: int) -> nn.Module:
        return FreqFusion(
            hr_channels=hr_channels, lr_channels=lr_channels, **freqfusion_arguments(cfg)
        )

    def carafe(hr_channels: int, lr_channels: int) -> nn.Module:
        return CarafeUpsampling(
            lr_channels=lr_channels,
            compressed_channels=node.COMPRESSED_CHANNELS,
            kernel_size=node.LOWPASS_KERNEL,
            encoder_kernel=node.ENCODER_KERNEL,
            padding_mode=node.PADDING_MODE,
            init=node.INIT,
        )

    def dysample(hr_channels: int, lr_channels: int) -> nn.Module:
        return DySampleUpsampling(lr_channels=lr_channels, groups=node.FEATURE_RESAMPLE_GROUP)

    factories: dict[str, FusionFactory] = {
        "freqfusion": freqfusion,
        "nearest": lambda hr, lr: InterpolationUpsampling(mode="nearest"),
        "bilinear": lambda hr, lr: InterpolationUpsampling(mode="bilinear"),
        "carafe": carafe,
        "dysample": dysample,
    }
    if kind not in factories:
        raise ValueError(
            f"MODEL.FREQFUSION.FUSE_TYPE must be one of {', '.join(factories)}; got {kind!r}"
        )
    return factories[kind]


def freqfusion_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of ``FreqFusion`` beside the channels of its two maps."""
    node = cfg.MODEL.FREQFUSION
    return {name.lower(): value for name, value in node.items() if name not in _NOT_ARGUMENTS}
