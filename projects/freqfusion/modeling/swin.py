"""Detectron2's Swin with the numbers of Mask2Former's published models at any size.

Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021;
Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import swin
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.layers.renaming import rename_on_load
from freqfusion.layers.windows import join_windows, pad_to_multiple, shift_mask, split_windows
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

_DIVISOR = 32
_INDEX = "relative_position_index"


class SwinTransformer(swin.SwinTransformer):
    """Swin; its stages are ``res2`` (stride 4), ``res3``, ... and each map is normalized.

    Images of any size: maps have ``ceil(size / stride)`` pixels. Layers and initialization are
    Detectron2's. Its blocks and stages compute with sizes as floats and keep them between calls,
    which exporters cannot follow, and need timm for stochastic depth; ours do not. timm's Swin
    differs in numbers: it moves maps before it pads them, keeps the windows in place where one
    covers the map, and does not normalize the stages.

    Args:
        embed_dim: Channels of the first stage; each further one has twice as many.
        depths: Blocks of each stage.
        num_heads: Heads of each stage, which must divide its channels.
        window_size: Side of the windows; every second block moves them by half of it.
        mlp_ratio: Width of the perceptrons, in channels.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path_rate: Stochastic depth of the last block, from 0 to below 1; it grows from 0
            block by block.
        patch_norm: Normalize the embedded patches.
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
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.3,
        patch_norm: bool = True,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        in_channels: int = 3,
        use_checkpoint: bool = False,
    ):
        check_positive(embed_dim=embed_dim, window_size=window_size, in_channels=in_channels)
        check_stages(depths=depths, num_heads=num_heads)
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        _check_heads(widths, num_heads)
        check_rates(embed_dim, mlp_ratio, drop_path_rate)
        super().__init__(
            in_chans=in_channels,
            embed_dim=embed_dim,
            patch_norm=patch_norm,
            # The stages and their normalizations are made below.
            depths=(),
            num_heads=(),
            out_indices=(),
        )
        self.layers = nn.ModuleList(
            SwinStage(
                channels=width,
                num_heads=heads,
                window_size=window_size,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path_rates=rates,
                downsample=width < widths[-1],
                use_checkpoint=use_checkpoint,
            )
            for width, heads, rates in zip(
                widths, num_heads, growing_rates(drop_path_rate, depths), strict=True
            )
        )
        set_outputs(self, widths, out_features)
        for index, width in enumerate(widths):
            if stage_name(index) in self._out_features:
                self.add_module(f"norm{index}", nn.LayerNorm(width))
        self.apply(self._init_weights)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Return the arguments from ``MODEL.SWIN``, whose keys are their names."""
        node = cfg.MODEL.SWIN
        return {key.lower(): value for key, value in node.items()} | {
            "in_channels": input_shape.channels
        }

    @property
    def size_divisibility(self) -> int:
        """Return the number that Detectron2 pads a batch to a multiple of."""
        return _DIVISOR

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the normalized maps of the chosen stages of images (B, 3, H, W)."""
        check_images(images, self.patch_embed.in_chans)
        maps = self.patch_embed(images).permute(0, 2, 3, 1)
        results = {}
        stages: Iterable[Any] = self.layers
        for index, stage in enumerate(stages):
            maps = stage(maps)
            name = stage_name(index)
            if name in self._out_features:
                normalized: Tensor = getattr(self, f"norm{index}")(maps)
                results[name] = normalized.permute(0, 3, 1, 2).contiguous()
            if stage.downsample is not None:
                height, width = maps.shape[1:3]
                tokens = stage.downsample(maps.flatten(1, 2), height, width)
                maps = tokens.unflatten(1, ((height + 1) // 2, (width + 1) // 2))
        return results


class SwinStage(swin.BasicLayer):
    """The blocks at one resolution, and the step to the next, which the caller takes."""

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path_rates: Sequence[float],
        downsample: bool,
        use_checkpoint: bool,
    ):
        super().__init__(
            dim=channels,
            depth=0,
            num_heads=num_heads,
            window_size=window_size,
            downsample=swin.PatchMerging if downsample else None,
            use_checkpoint=use_checkpoint,
        )
        self.blocks = nn.ModuleList(
            SwinBlock(
                channels=channels,
                num_heads=num_heads,
                window_size=window_size,
                shift=self.shift_size if index % 2 else 0,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path_rate=rate,
            )
            for index, rate in enumerate(drop_path_rates)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return a map (B, H, W, C) like the one that came, before the step to the next stage."""
        mask = None
        if self.shift_size and len(self.blocks) > 1:
            height, width = pad_to_multiple(maps[:1, ..., :1], self.window_size).shape[1:3]
            mask = shift_mask(
                height,
                width,
                size=self.window_size,
                shift=self.shift_size,
                device=maps.device,
                dtype=maps.dtype,
            )
        return run_blocks(self.blocks, maps, mask, use_checkpoint=self.use_checkpoint)


class SwinBlock(swin.SwinTransformerBlock):
    """Attention in windows and a perceptron, each added to what came in.

    Args:
        channels: Of the maps.
        num_heads: Must divide the channels.
        window_size: Side of the windows.
        shift: How far the windows are moved down and to the right; 0 keeps the grid.
        mlp_ratio: Width of the perceptron, in channels.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path_rate: How often, in training, an image goes without a branch.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path_rate: float,
    ):
        super().__init__(
            channels, num_heads, window_size, shift, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias
        )
        self.drop_path = drop_path(drop_path_rate)
        # Published files have the index; it follows from the size of the windows.
        self.attn.register_buffer(_INDEX, self.attn.get_buffer(_INDEX), persistent=False)
        rename_on_load(self.attn, renames={}, dropped={_INDEX: _INDEX})

    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        """Return a map (B, H, W, C) like the one that came; moved windows need the ``mask``."""
        maps = maps + self.drop_path(self._attend(self.norm1(maps), mask))
        changed: Tensor = maps + self.drop_path(self.mlp(self.norm2(maps)))
        return changed

    def _attend(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        batch, height, width = maps.shape[:3]
        # Padded before they are rolled, and no mask hides the padding: zeros, whose keys and values
        # are the biases, are seen like any pixel. Published weights were trained so.
        maps = pad_to_multiple(maps, self.window_size)
        padded = maps.shape[1:3]
        if self.shift_size:
            maps = maps.roll((-self.shift_size, -self.shift_size), dims=(1, 2))
        windows = split_windows(maps, self.window_size)
        attended = self.attn(windows.flatten(0, 1), mask if self.shift_size else None)
        maps = join_windows(attended.unflatten(0, (batch, -1)), self.window_size, *padded)
        if self.shift_size:
            maps = maps.roll((self.shift_size, self.shift_size), dims=(1, 2))
        return maps[:, :height, :width]


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Return the Swin that ``MODEL.SWIN`` describes."""
    return SwinTransformer(cfg, input_shape)


def _check_heads(widths: Sequence[int], num_heads: Sequence[int]) -> None:
    for width, heads in zip(widths, num_heads, strict=True):
        if width % heads:
            raise ValueError(
                f"num_heads must divide the channels of their stages, got {heads} heads for "
                f"{width} channels"
            )
