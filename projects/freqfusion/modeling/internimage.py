"""InternImage as a Detectron2 backbone; parameters have the published names.

Shapes: maps (B, H, W, C) of any size.

Wang et al., InternImage: Exploring Large-Scale Vision Foundation Models with Deformable
Convolutions, CVPR 2023, section 3.2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.swin import Mlp
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice, check_positive
from freqfusion.layers.deformable_convolution import (
    EPSILON,
    DeformableConvolutionV3,
    Normalization,
    channels_last_norm,
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
# The one whose map post_norm_blocks normalize.
_EXTRA_NORMS_STAGE = 2


@dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """What all blocks of an InternImage have in common, under the names of its arguments."""

    mlp_ratio: float = 4.0
    layer_scale: float = 0.0
    post_norm: bool = False
    res_post_norm: bool = False
    offset_scale: float = 1.0
    depthwise_kernel: int = 3
    center_feature_scale: bool = False
    norm: Normalization = "LN"


class InternImage(Backbone):
    """InternImage; its stages are ``res2`` (stride 4), ``res3``, ... with channels first.

    Images of any size: maps have ``ceil(size / stride)`` pixels.

    ========  ==========  ===============  ================  =========  ============
    model     channels    depths           groups            post_norm  offset_scale
    ========  ==========  ===============  ================  =========  ============
    T         64          4, 4, 18, 4      4, 8, 16, 32      False      1
    S         80          4, 4, 21, 4      5, 10, 20, 40     True       1
    B         112         4, 4, 21, 4      7, 14, 28, 56     True       1
    L         160         5, 5, 22, 5      10, 20, 40, 80    True       2
    XL        192         5, 5, 24, 5      12, 24, 48, 96    True       2
    H         320         6, 6, 32, 6      10, 20, 40, 80    False      1
    G         512         2, 2, 48, 4      16, 32, 64, 128   True       1
    ========  ==========  ===============  ================  =========  ============

    H and G also have a ``depthwise_kernel`` of 5, ``center_feature_scale``, ``layer_scale`` 0, and
    ``post_norm_blocks`` 5, 11, 17, ... up to the end of the third stage; H has ``res_post_norm``.
    ``offset_scale`` is not in checkpoints: with another one they load and give other numbers.

    For C channels in groups of 16 a block has 10C parameters in the depthwise convolution,
    27C/16 * (C + 1) for offsets and weights, 2C(C + 1) in the projections, 8C² + 5C in the
    perceptron, 6C in three normalizations and 2C factors, together 11.6875C² + 26.6875C; a step has
    18C² + 4C; the stem, with c for half of the channels of the first stage, 18c² + 36c; a stage
    without ``post_norm`` 2C. The blocks of T are 27 197 936, its steps 1 550 080, its stem 19 584,
    its norms 1 920: together 28 769 520.

    Args:
        channels: Of the first stage, even; each further one has twice as many.
        depths: Blocks of each stage.
        groups: Groups of the convolutions of each stage, which must divide its channels.
        mlp_ratio: Width of the perceptrons, in channels.
        drop_path_rate: Stochastic depth of the last block, from 0 to below 1; it grows from 0
            block by block.
        layer_scale: Where the learned factors of all branches start; 0 leaves them out.
        post_norm: Normalize what a branch gives instead of what it gets. Stages are then not
            normalized, unless with ``center_feature_scale``.
        offset_scale: Widens the offsets and kernels of the convolutions.
        depthwise_kernel: Width of the depthwise convolutions that offsets are predicted from.
        center_feature_scale: Mix the map itself into the result of the convolutions.
        res_post_norm: Normalize what a branch gives as well as what it gets; without effect where
            there is ``post_norm`` or ``layer_scale``.
        post_norm_blocks: Blocks of the third stage, counted from 0, behind which its map is
            normalized.
        norm: Normalization of stem, steps and depthwise convolutions, ``"LN"`` or ``"BN"``; all
            others are layer normalizations.
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
        depthwise_kernel: int = 3,
        center_feature_scale: bool = False,
        res_post_norm: bool = False,
        post_norm_blocks: Sequence[int] = (),
        norm: Normalization = "LN",
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
        check_choice(Normalization, norm=norm)
        self.patch_embed = Stem(in_channels=in_channels, channels=channels, norm=norm)
        settings = BlockSettings(
            mlp_ratio=mlp_ratio,
            layer_scale=layer_scale,
            post_norm=post_norm,
            res_post_norm=res_post_norm,
            offset_scale=offset_scale,
            depthwise_kernel=depthwise_kernel,
            center_feature_scale=center_feature_scale,
            norm=norm,
        )
        rates = growing_rates(drop_path_rate, depths)
        self.levels = nn.ModuleList(
            InternImageStage(
                channels=width,
                groups=groups[stage],
                drop_path_rates=rates[stage],
                settings=settings,
                post_norm_blocks=post_norm_blocks if stage == _EXTRA_NORMS_STAGE else (),
                downsample=width < widths[-1],
                use_checkpoint=use_checkpoint,
            )
            for stage, width in enumerate(widths)
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

    def __init__(self, *, in_channels: int, channels: int, norm: Normalization):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, half, 3, stride=2, padding=1)
        self.norm1 = nn.Sequential(*channels_last_norm(half, norm), ChannelsFirst())
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(half, channels, 3, stride=2, padding=1)
        self.norm2 = channels_last_norm(channels, norm)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into a map (B, ceil(H / 4), ceil(W / 4), C)."""
        maps: Tensor = self.norm2(self.conv2(self.act(self.norm1(self.conv1(images)))))
        return maps


class InternImageDownsampling(nn.Module):
    """A convolution of stride 2 to twice the channels, normalized."""

    def __init__(self, *, channels: int, norm: Normalization):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = channels_last_norm(2 * channels, norm)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C)."""
        smaller: Tensor = self.norm(self.conv(maps.permute(0, 3, 1, 2)))
        return smaller


class InternImageBlock(nn.Module):
    """A deformable convolution and a perceptron, each added to what came in.

    Args:
        channels: Of the maps.
        groups: Of the convolution, must divide the channels.
        drop_path_rate: How often, in training, an image goes without a branch.
        settings: What all blocks have in common.
    """

    def __init__(
        self, *, channels: int, groups: int, drop_path_rate: float, settings: BlockSettings
    ):
        super().__init__()
        self.post_norm = settings.post_norm
        self.drop_path = drop_path(drop_path_rate)
        self.norm1 = layer_norm(channels)
        self.dcn = DeformableConvolutionV3(
            channels=channels,
            groups=groups,
            offset_scale=settings.offset_scale,
            depthwise_kernel=settings.depthwise_kernel,
            norm=settings.norm,
            center_feature_scale=settings.center_feature_scale,
        )
        self.norm2 = layer_norm(channels)
        self.mlp = Mlp(channels, hidden_features=int(channels * settings.mlp_ratio))
        self.gamma1 = _factors(channels, settings.layer_scale)
        self.gamma2 = _factors(channels, settings.layer_scale)
        both = settings.res_post_norm and not (settings.post_norm or settings.layer_scale)
        self.res_post_norm1 = layer_norm(channels) if both else None
        self.res_post_norm2 = layer_norm(channels) if both else None

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape."""
        maps = maps + self._branch(maps, self.dcn, self.norm1, self.res_post_norm1, self.gamma1)
        return maps + self._branch(maps, self.mlp, self.norm2, self.res_post_norm2, self.gamma2)

    def _branch(
        self,
        maps: Tensor,
        work: nn.Module,
        norm: nn.Module,
        second_norm: nn.Module | None,
        factors: Tensor | None,
    ) -> Tensor:
        branch: Tensor = norm(work(maps)) if self.post_norm else work(norm(maps))
        if second_norm is not None:
            branch = second_norm(branch)
        if factors is not None:
            branch = branch * factors
        dropped: Tensor = self.drop_path(branch)
        return dropped


class InternImageStage(nn.Module):
    """The blocks at one resolution, and the step to the next, which the caller takes.

    Without ``post_norm`` in the blocks, nothing has normalized their sum: then the stage does, and
    where the map itself is mixed into it.

    Args:
        channels: Of the maps.
        groups: Of the convolutions, must divide the channels.
        drop_path_rates: One for each block.
        settings: What all blocks have in common.
        post_norm_blocks: Blocks behind which the map is normalized.
        downsample: Whether there is a next stage.
        use_checkpoint: Recompute the blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        channels: int,
        groups: int,
        drop_path_rates: Sequence[float],
        settings: BlockSettings,
        post_norm_blocks: Sequence[int],
        downsample: bool,
        use_checkpoint: bool,
    ):
        super().__init__()
        unknown = [block for block in post_norm_blocks if not 0 <= block < len(drop_path_rates)]
        if unknown:
            raise ValueError(
                f"post_norm_blocks must be from 0 to {len(drop_path_rates) - 1}, got {unknown}"
            )
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            InternImageBlock(
                channels=channels, groups=groups, drop_path_rate=rate, settings=settings
            )
            for rate in drop_path_rates
        )
        self.post_norm_blocks = sorted(post_norm_blocks)
        self.post_norms = nn.ModuleList(layer_norm(channels) for _ in post_norm_blocks)
        normalized = not settings.post_norm or settings.center_feature_scale
        self.norm = layer_norm(channels) if normalized else None
        self.downsample = (
            InternImageDownsampling(channels=channels, norm=settings.norm) if downsample else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape, before the step to the next stage."""
        start = 0
        for block, norm in zip(self.post_norm_blocks, self.post_norms, strict=True):
            blocks = self.blocks[start : block + 1]
            maps = norm(run_blocks(blocks, maps, use_checkpoint=self.use_checkpoint))
            start = block + 1
        maps = run_blocks(self.blocks[start:], maps, use_checkpoint=self.use_checkpoint)
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
