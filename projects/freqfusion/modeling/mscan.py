"""MSCAN, the convolutional backbone of SegNeXt; parameters have the published names.

Shapes: maps (B, C, H, W) of any size.

Guo et al., SegNeXt: Rethinking Convolutional Attention Design for Semantic Segmentation, NeurIPS
2022, section 3.1.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.layers.convolution import PointwiseConv2d, zero_bias
from freqfusion.modeling.stages import (
    check_images,
    check_rates,
    check_stages,
    drop_path,
    growing_rates,
    run_blocks,
    set_outputs,
    stage_name,
)

# Lengths of the strips, each once along the rows and once along the columns.
_STRIPS = (7, 11, 21)
_LAYER_SCALE = 0.01
_STEM_STRIDE = 4


class MSCAN(Backbone):
    """Multi-scale convolutional attention; its stages are ``res2`` (stride 4), ``res3``, ...

    Images of any size: maps have ``ceil(size / stride)`` pixels. Every convolution has a bias.

    ========  ====================  ==================  ===============
    model     embed_dims            depths              mlp_ratios
    ========  ====================  ==================  ===============
    T         32, 64, 160, 256      3, 3, 5, 2          8, 8, 4, 4
    S         64, 128, 320, 512     2, 2, 4, 2          8, 8, 4, 4
    B         64, 128, 320, 512     3, 3, 12, 3         8, 8, 4, 4
    L         64, 128, 320, 512     3, 5, 27, 3         8, 8, 4, 4
    ========  ====================  ==================  ===============

    Args:
        embed_dims: Channels of each stage.
        depths: Blocks of each stage.
        mlp_ratios: Width of the perceptrons of each stage, in channels.
        drop_path_rate: Stochastic depth of the last block, from 0 to below 1; it grows from 0
            block by block.
        norm: Normalization of stem, steps and blocks, as in Detectron2; published models were
            trained with ``"SyncBN"``. Stages end with a layer normalization.
        out_features: Which stages to return.
        in_channels: Channels of the images.
        use_checkpoint: Recompute the blocks in the backward pass instead of keeping their maps;
            running statistics of ``"BN"`` then take in each batch twice.

    Raises:
        ValueError: if the arguments do not fit together.
    """

    @configurable
    def __init__(
        self,
        *,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (3, 3, 5, 2),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        drop_path_rate: float = 0.1,
        norm: str = "BN",
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        in_channels: int = 3,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        check_positive(in_channels=in_channels)
        check_stages(embed_dims=embed_dims, depths=depths, mlp_ratios=mlp_ratios)
        check_rates(embed_dims[0], mlp_ratios[0], drop_path_rate)
        if embed_dims[0] < 2:
            raise ValueError(
                f"embed_dims must begin with at least 2 channels, since the stem begins with half "
                f"of them; got {list(embed_dims)}"
            )
        if not norm:
            raise ValueError('norm must name a normalization such as "BN" or "SyncBN", got ""')
        self.in_channels, self.use_checkpoint = in_channels, use_checkpoint
        self.num_stages = len(embed_dims)
        rates = growing_rates(drop_path_rate, depths)
        for stage, (width, ratio) in enumerate(zip(embed_dims, mlp_ratios, strict=True)):
            embedding = (
                PatchEmbedding(in_channels=embed_dims[stage - 1], channels=width, norm=norm)
                if stage
                else MSCANStem(in_channels=in_channels, channels=width, norm=norm)
            )
            blocks = nn.ModuleList(
                MSCANBlock(channels=width, mlp_ratio=ratio, drop_path_rate=rate, norm=norm)
                for rate in rates[stage]
            )
            # Published names count stages from 1.
            self.add_module(f"patch_embed{stage + 1}", embedding)
            self.add_module(f"block{stage + 1}", blocks)
            self.add_module(f"norm{stage + 1}", StageNorm(width))
        set_outputs(self, embed_dims, out_features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialize(module)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return arguments from ``MODEL.MSCAN``, whose keys are their names."""
        arguments = {key.lower(): value for key, value in cfg.MODEL.MSCAN.items()}
        return arguments | {"in_channels": input_shape.channels}

    @property
    def size_divisibility(self) -> int:
        """Return the number that Detectron2 pads a batch to a multiple of."""
        return _STEM_STRIDE << (self.num_stages - 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of the chosen stages of images (B, 3, H, W)."""
        check_images(images, self.in_channels)
        maps, results = images, {}
        for stage in range(self.num_stages):
            maps = getattr(self, f"patch_embed{stage + 1}")(maps)
            blocks = getattr(self, f"block{stage + 1}")
            maps = run_blocks(blocks, maps, use_checkpoint=self.use_checkpoint)
            maps = getattr(self, f"norm{stage + 1}")(maps)
            if stage_name(stage) in self._out_features:
                results[stage_name(stage)] = maps
        return results


@BACKBONE_REGISTRY.register()
def build_mscan_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Return the MSCAN that ``MODEL.MSCAN`` describes."""
    return MSCAN(cfg, input_shape)


class MSCANStem(nn.Module):
    """Two convolutions of stride 2: images to the map of the first stage, a quarter in size."""

    def __init__(self, *, in_channels: int, channels: int, norm: str):
        super().__init__()
        half = channels // 2
        self.proj = nn.Sequential(
            nn.Conv2d(in_channels, half, 3, stride=2, padding=1),
            get_norm(norm, half),
            nn.GELU(),
            nn.Conv2d(half, channels, 3, stride=2, padding=1),
            get_norm(norm, channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into a map (B, C, ceil(H / 4), ceil(W / 4))."""
        maps: Tensor = self.proj(images)
        return maps


class PatchEmbedding(nn.Module):
    """A normalized convolution of stride 2, the step to the next stage."""

    def __init__(self, *, in_channels: int, channels: int, norm: str):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.norm = get_norm(norm, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn a map of H x W pixels into one of ceil(H / 2) x ceil(W / 2)."""
        smaller: Tensor = self.norm(self.proj(maps))
        return smaller


class StageNorm(nn.LayerNorm):
    """Layer normalization of each pixel of a map with channels first."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize over the channels; the result is contiguous."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class MSCANBlock(nn.Module):
    """Convolutional attention and a perceptron, each scaled and added to what came in."""

    def __init__(self, *, channels: int, mlp_ratio: float, drop_path_rate: float, norm: str):
        super().__init__()
        self.norm1 = get_norm(norm, channels)
        self.attn = ConvolutionalAttention(channels=channels)
        self.norm2 = get_norm(norm, channels)
        self.mlp = ConvolutionalMlp(channels=channels, hidden=int(channels * mlp_ratio))
        self.drop_path = drop_path(drop_path_rate)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), _LAYER_SCALE))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), _LAYER_SCALE))

    def forward(self, maps: Tensor) -> Tensor:
        """Turn a map into one of the same shape."""
        attended = self.layer_scale_1[:, None, None] * self.attn(self.norm1(maps))
        maps = maps + self.drop_path(attended)
        mixed = self.layer_scale_2[:, None, None] * self.mlp(self.norm2(maps))
        result: Tensor = maps + self.drop_path(mixed)
        return result


class ConvolutionalAttention(nn.Module):
    """The gate between two pointwise convolutions, added to what came in."""

    def __init__(self, *, channels: int):
        super().__init__()
        self.proj_1 = PointwiseConv2d(channels, channels)
        self.activation = nn.GELU()
        self.spatial_gating_unit = SpatialGate(channels=channels)
        self.proj_2 = PointwiseConv2d(channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn a map into one of the same shape."""
        gated = self.spatial_gating_unit(self.activation(self.proj_1(maps)))
        result: Tensor = self.proj_2(gated) + maps
        return result


class SpatialGate(nn.Module):
    """Multiply a map with a sum of depthwise convolutions of several reaches (equation 1).

    A 5 x 5 convolution, and on its result pairs of strips of 7, 11 and 21 pixels; a pointwise
    convolution mixes the sum of all four.
    """

    def __init__(self, *, channels: int):
        super().__init__()
        self.conv0 = _depthwise(channels, (5, 5))
        for branch, length in enumerate(_STRIPS):
            self.add_module(f"conv{branch}_1", _depthwise(channels, (1, length)))
            self.add_module(f"conv{branch}_2", _depthwise(channels, (length, 1)))
        self.conv3 = PointwiseConv2d(channels, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn a map into one of the same shape."""
        around = self.conv0(maps)
        total = around
        for branch in range(len(_STRIPS)):
            rows, columns = getattr(self, f"conv{branch}_1"), getattr(self, f"conv{branch}_2")
            total = total + columns(rows(around))
        gate: Tensor = self.conv3(total)
        return gate * maps


class ConvolutionalMlp(nn.Module):
    """A perceptron of each pixel with a depthwise convolution before its activation."""

    def __init__(self, *, channels: int, hidden: int):
        super().__init__()
        self.fc1 = PointwiseConv2d(channels, hidden)
        self.dwconv = nn.ModuleDict({"dwconv": _depthwise(hidden, (3, 3))})
        self.act = nn.GELU()
        self.fc2 = PointwiseConv2d(hidden, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Turn a map into one of the same shape."""
        mixed: Tensor = self.fc2(self.act(self.dwconv["dwconv"](self.fc1(maps))))
        return mixed


def _depthwise(channels: int, kernel_size: tuple[int, int]) -> nn.Conv2d:
    padding = (kernel_size[0] // 2, kernel_size[1] // 2)
    return nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels)


def _initialize(convolution: nn.Conv2d) -> None:
    """Give weights a variance of 2 over the number of outputs that read an input, biases zero."""
    fan_out = convolution.weight[:, 0].numel() / convolution.groups
    nn.init.normal_(convolution.weight, std=math.sqrt(2 / fan_out))
    zero_bias(convolution)
