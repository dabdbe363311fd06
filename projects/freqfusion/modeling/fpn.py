"""Detectron2's feature pyramid with another fusion at every top-down hop, and these fusions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import FPN, Backbone
from torch import Tensor, nn

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
    """Return the builder of the fusion that ``MODEL.FREQFUSION`` names."""
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
    """Return the arguments of ``FreqFusion`` beside the channels of its two maps."""
    node = cfg.MODEL.FREQFUSION
    return {name.lower(): value for name, value in node.items() if name not in _NOT_ARGUMENTS}


class FreqFusionFPN(FPN):
    """Feature Pyramid Network (Lin et al., CVPR 2017) whose levels join by FreqFusion.

    Output names, strides, ``fpn_lateral*`` and ``fpn_output*`` keys and ``size_divisibility`` are
    Detectron2's, so its checkpoints load and only the ``fpn_fusion*`` parameters are new. Unlike
    there, the levels may have any sizes.

    Args:
        bottom_up: Backbone that the pyramid stands on.
        in_features: Names of its feature maps, fine to coarse, each half the size of the one
            before.
        out_channels: Width of the pyramid.
        make_fusion: Builds the module of one hop from the widths of its two maps.
        norm: Normalization of the convolutions, as in Detectron2.
        top_block: Makes further levels from the last one, as in Detectron2.
        fuse_type: ``"sum"`` or ``"avg"`` of the two maps that a hop joins.
        square_pad: As in Detectron2.
        fused_top_levels: Number of levels above the last one that take part in the top-down path:
            a strided convolution of the last backbone map, and one of each such level for the next.
            Published weights have one. Excludes ``top_block``.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        make_fusion: FusionFactory,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
        fused_top_levels: int = 0,
    ):
        if fused_top_levels and top_block is not None:
            raise ValueError("fused top levels replace a top block: give one of them")
        super().__init__(
            bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad
        )
        stages = [int(math.log2(bottom_up.output_shape()[name].stride)) for name in in_features]
        channels = bottom_up.output_shape()[in_features[-1]].channels
        for _ in range(fused_top_levels):
            stages.append(stages[-1] + 1)
            self._add_top_level(stages[-1], channels, out_channels, norm)
            channels = out_channels
        self.stages = tuple(stages)
        for stage in stages[:-1]:
            self.add_module(f"fpn_fusion{stage}", make_fusion(out_channels, out_channels))

    def _add_top_level(self, stage: int, in_channels: int, out_channels: int, norm: str) -> None:
        for kind, width, stride in (("lateral", in_channels, 2), ("output", out_channels, 1)):
            convolution = Conv2d(
                width,
                out_channels,
                kernel_size=3,
                stride=stride,
                padding=1,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
            )
            weight_init.c2_xavier_fill(convolution)
            self.add_module(f"fpn_{kind}{stage}", convolution)
        name = f"p{stage}"
        self._out_features.append(name)
        self._out_feature_strides[name] = 2**stage
        self._out_feature_channels[name] = out_channels

    def forward(self, x: Any) -> dict[str, Tensor]:
        """Return the maps ``p2``, ``p3``, ..., fine to coarse."""
        bottom_up = self.bottom_up(x)
        sources = [bottom_up[name] for name in self.in_features]
        maps: list[Tensor] = []
        for level, stage in enumerate(self.stages):
            # The first added level reads the last backbone map, the next one the level below.
            source = maps[-1] if level > len(sources) else sources[min(level, len(sources) - 1)]
            maps.append(getattr(self, f"fpn_lateral{stage}")(source))
        for level in range(len(maps) - 2, -1, -1):
            fusion = getattr(self, f"fpn_fusion{self.stages[level]}")
            _, fine, coarse = fusion(hr_feat=maps[level], lr_feat=maps[level + 1])
            joined = fine + coarse
            maps[level] = joined / 2 if self._fuse_type == "avg" else joined
        results = {
            f"p{stage}": getattr(self, f"fpn_output{stage}")(image)
            for stage, image in zip(self.stages, maps, strict=True)
        }
        if self.top_block is not None:
            name = self.top_block.in_feature
            further = self.top_block(bottom_up[name] if name in bottom_up else results[name])
            results.update(zip(self._out_features[len(results) :], further, strict=True))
        return results
