"""InternImage as a Detectron2 backbone; parameters have the published names.

Shapes: maps (B, H, W, C) of any size.

Wang et al., InternImage: Exploring Large-Scale Vision Foundation Models with Deformable
Convolutions, CVPR 2023, section 3.2.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.swin import Mlp
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.layers.deformable_convolution import (
    EPSILON,
    ChannelsLast,
    DeformableConvolutionV3,
)
from freqfusion.modeling.backbone import build_p2_to_p6
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

_STEM_STRIDE = 4


class InternImage(Backbone):
    """InternImage; its stages are ``res2`` (stride 4), ``res3``, ... with channels first.

    Images of any size: maps have ``ceil(size / stride)`` pixels.

    ========  ==========  =================  ==================  =====================
    model     channels    depths             groups              parameters (with head)
    ========  ==========  =================  ==================  =====================
    T         64          4, 4, 18, 4        4, 8, 16, 32        28 769 520 (29.9 M)
    S         80          4, 4, 21, 4        5, 10, 20, 40       48 502 560 (50.1 M)
    B         112         4, 4, 21, 4        7, 14, 28, 56       94 909 920 (97.5 M)
    ========  ==========  =================  ==================  =====================

    T has ``post_norm=False``, S and B ``True``. The count, for C channels in groups of 16: a block
    has 10C depthwise, 27C/16 * (C + 1) for offsets and weights, 2C(C + 1) for the projections,
    8C² + 5C in the perceptron, 6C in three normalizations and 2C factors, together
    11.6875C² + 26.6875C; a step 18C² + 4C; the stem, with c for half of the channels of the first
    stage, 18c² + 36c; a stage without ``post_norm`` 2C. Four, four, eighteen and four
    blocks of T are 27 197 936, its steps 1 550 080, its stem 19 584, its norms 1 920. A classifier
    of 1000 classes over the last stage has 1.5C² + 1503C + 1000, and the sums then agree with the
    paper's 30, 50 and 97 million.

    Known from the paper: the operator, stem, steps, widths, depths and groups. From its authors'
    released code, as remembered: the names of the parameters, that taps are counted column by
    column and that ``offset_scale`` widens the kernel too, the epsilon of the normalizations, where
    stages are normalized, ``post_norm`` of each size and how weights start. No published file was
    opened, so that no published number has been compared.

    Args:
        channels: Of the first stage, even; each further one has twice as many.
        depths: Blocks of each stage.
        groups: Groups of the convolutions of each stage, which must divide its channels.
        mlp_ratio: Width of the perceptrons, in channels.
        drop_path_rate: Stochastic depth of the last block, from 0 to below 1; it grows from 0
            block by block.
        layer_scale: Where the learned factors of all branches start; 0 leaves them out.
        post_norm: Normalize what a branch gives instead of what it gets, and no stage.
        offset_scale: Widens the offsets and kernels of the convolutions.
        out_features: Which stages to return.
        in_channels: Channels of the images.
        use_checkpoint: Recompute the blocks in the backward pass instead of keeping their maps.

    Raises:
        ValueError: if the arguments do not fit together.
    """

    @configurable
    def __init__(
        self,
        *,
        channels: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        layer_scale: float = 1.0,
        post_norm: bool = False,
        offset_scale: float = 1.0,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        in_channels: int = 3,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        check_positive(channels=channels, in_channels=in_channels)
        widths = [channels * 2**stage for stage in range(len(depths))]
        check_stages(depths=depths, groups=groups)
        if channels % 2:
            raise ValueError(
                f"channels must be even, since the stem begins with half; got {channels}"
            )
        check_rates(channels, mlp_ratio, drop_path_rate)
        if not layer_scale >= 0:
            raise ValueError(f"layer_scale must not be negative, got {layer_scale}")
        self.patch_embed = Stem(in_channels=in_channels, channels=channels)
        self.levels = nn.ModuleList(
            InternImageStage(
                channels=width,
                groups=parts,
                mlp_ratio=mlp_ratio,
                drop_path_rates=rates,
                layer_scale=layer_scale,
                post_norm=post_norm,
                offset_scale=offset_scale,
                downsample=width < widths[-1],
                use_checkpoint=use_checkpoint,
            )
            for width, parts, rates in zip(
                widths, groups, growing_rates(drop_path_rate, depths), strict=True
            )
        )
        set_outputs(self, widths, out_features)
        for module in self.modules():
            if isinstance(module, Mlp):
                _initialize(module)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return arguments from ``MODEL.INTERNIMAGE``, whose keys are their names."""
        node = cfg.MODEL.INTERNIMAGE
        return {key.lower(): value for key, value in node.items()} | {
            "in_channels": input_shape.channels
        }

    @property
    def size_divisibility(self) -> int:
        """Return the number that Detectron2 pads a batch to a multiple of."""
        return _STEM_STRIDE << (len(self.levels) - 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps of the chosen stages, channels first, of images (B, 3, H, W)."""
        check_images(images, self.patch_embed.conv1.in_channels)
        maps = self.patch_embed(images)
        results = {}
        stages: Iterable[Any] = self.levels
        for index, stage in enumerate(stages):
            maps = stage(maps)
            if stage_name(index) in self._out_features:
                results[stage_name(index)] = maps.permute(0, 3, 1, 2).contiguous()
            if stage.downsample is not None:
                maps = stage.downsample(maps)
        return results


@BACKBONE_REGISTRY.register()
def build_internimage_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Return the InternImage that ``MODEL.INTERNIMAGE`` describes."""
    return InternImage(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_internimage_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Return InternImage under a pyramid p2..p6."""
    return build_p2_to_p6(cfg, build_internimage_backbone(cfg, input_shape))


class ChannelsFirst(nn.Module):
    """(B, H, W, C) to (B, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        """A view."""
        return maps.permute(0, 3, 1, 2)


class Stem(nn.Module):
    """Two convolutions of stride 2: images to the map of the first stage, a quarter in size."""

    def __init__(self, *, in_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, half, 3, stride=2, padding=1)
        norm = nn.LayerNorm(half, eps=EPSILON)
        self.norm1 = nn.Sequential(ChannelsLast(), norm, ChannelsFirst())
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(half, channels, 3, stride=2, padding=1)
        self.norm2 = nn.Sequential(ChannelsLast(), nn.LayerNorm(channels, eps=EPSILON))

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into a map (B, ceil(H / 4), ceil(W / 4), C)."""
        maps: Tensor = self.norm2(self.conv2(self.act(self.norm1(self.conv1(images)))))
        return maps


class InternImageDownsampling(nn.Module):
    """A convolution of stride 2 to twice the channels, normalized."""

    def __init__(self, *, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(ChannelsLast(), nn.LayerNorm(2 * channels, eps=EPSILON))

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C)."""
        smaller: Tensor = self.norm(self.conv(maps.permute(0, 3, 1, 2)))
        return smaller


class InternImageBlock(nn.Module):
    """A deformable convolution and a perceptron, each added to what came in.

    Args:
        channels: Of the maps.
        groups: Of the convolution, must divide the channels.
        mlp_ratio: Width of the perceptron, in channels.
        drop_path_rate: How often, in training, an image goes without a branch.
        layer_scale: Where the learned factors of both branches start; 0 leaves them out.
        post_norm: Normalize what a branch gives instead of what it gets.
        offset_scale: Widens the offsets and kernels of the convolution.
    """

    def __init__(
        self,
        *,
        channels: int,
        groups: int,
        mlp_ratio: float,
        drop_path_rate: float,
        layer_scale: float,
        post_norm: bool,
        offset_scale: float,
    ):
        super().__init__()
        self.post_norm = post_norm
        self.drop_path = drop_path(drop_path_rate)
        self.norm1 = layer_norm(channels)
        self.dcn = DeformableConvolutionV3(
            channels=channels, groups=groups, offset_scale=offset_scale
        )
        self.norm2 = layer_norm(channels)
        self.mlp = Mlp(channels, hidden_features=int(channels * mlp_ratio))
        self.gamma1 = _factors(channels, layer_scale)
        self.gamma2 = _factors(channels, layer_scale)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape."""
        maps = maps + self._branch(maps, self.dcn, self.norm1, self.gamma1)
        return maps + self._branch(maps, self.mlp, self.norm2, self.gamma2)

    def _branch(
        self, maps: Tensor, work: nn.Module, norm: nn.Module, factors: Tensor | None
    ) -> Tensor:
        branch: Tensor = norm(work(maps)) if self.post_norm else work(norm(maps))
        if factors is not None:
            branch = branch * factors
        dropped: Tensor = self.drop_path(branch)
        return dropped


class InternImageStage(nn.Module):
    """The blocks at one resolution, and the step to the next, which the caller takes.

    Without ``post_norm`` in the blocks, nothing has normalized their sum: then the stage does.
    """

    def __init__(
        self,
        *,
        channels: int,
        groups: int,
        mlp_ratio: float,
        drop_path_rates: Sequence[float],
        layer_scale: float,
        post_norm: bool,
        offset_scale: float,
        downsample: bool,
        use_checkpoint: bool,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            InternImageBlock(
                channels=channels,
                groups=groups,
                mlp_ratio=mlp_ratio,
                drop_path_rate=rate,
                layer_scale=layer_scale,
                post_norm=post_norm,
                offset_scale=offset_scale,
            )
            for rate in drop_path_rates
        )
        self.norm = None if post_norm else layer_norm(channels)
        self.downsample = InternImageDownsampling(channels=channels) if downsample else None

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape, before the step to the next stage."""
        maps = run_blocks(self.blocks, maps, use_checkpoint=self.use_checkpoint)
        return maps if self.norm is None else self.norm(maps)


def _factors(channels: int, start: float) -> nn.Parameter | None:
    return nn.Parameter(torch.full((channels,), float(start))) if start else None


def layer_norm(channels: int) -> nn.Sequential:
    """Return a normalization of each pixel; published names have a number for it (``norm1.0``)."""
    return nn.Sequential(nn.LayerNorm(channels, eps=EPSILON))


def _initialize(perceptron: Mlp) -> None:
    """Published models began so; the convolutions have a start of their own."""
    for layer in (perceptron.fc1, perceptron.fc2):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
