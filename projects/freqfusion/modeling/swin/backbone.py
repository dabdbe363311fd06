"""Swin as a Detectron2 backbone, with the names and the numbers of Mask2Former's published models.

Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021;
Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.modeling.swin.blocks import PatchEmbedding
from freqfusion.modeling.swin.stage import SwinStage

_PATCH = 4
_FIRST_STAGE = 2
_DIVISOR = 32


class SwinTransformer(Backbone):
    """Swin; its stages are ``res2`` (stride 4), ``res3``, ... and each map is normalised.

    Images of any size: maps have ``ceil(size / stride)`` pixels. What timm's Swin does otherwise:
    it moves maps before it pads them, keeps the windows in place where one covers the map, and has
    no normalisations of the stages.

    Args:
        embed_dim: Channels of the first stage; each further one has twice as many.
        depths: Blocks of each stage.
        num_heads: Heads of each stage, which must divide its channels.
        window_size: Side of the windows; every second block moves them by half of it.
        mlp_ratio: Width of the perceptrons, in channels.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path_rate: Stochastic depth of the last block, from 0 to below 1; it grows from 0
            block by block.
        patch_norm: Normalise the embedded patches.
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
        super().__init__()
        check_positive(embed_dim=embed_dim, window_size=window_size, in_channels=in_channels)
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        _check_stages(widths, depths, num_heads)
        _check_rates(embed_dim, mlp_ratio, drop_path_rate)
        self.patch_embed = PatchEmbedding(
            in_channels=in_channels, channels=embed_dim, patch_size=_PATCH, normalized=patch_norm
        )
        rates = _growing(drop_path_rate, sum(depths))
        self.layers = nn.ModuleList(
            SwinStage(
                channels=width,
                num_heads=heads,
                window_size=window_size,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path_rates=[next(rates) for _ in range(depth)],
                downsample=width < widths[-1],
                use_checkpoint=use_checkpoint,
            )
            for width, heads, depth in zip(widths, num_heads, depths, strict=True)
        )
        stages = {f"res{_FIRST_STAGE + index}": index for index in range(len(depths))}
        self._set_outputs(stages, widths, out_features)
        self.apply(_initialize)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.SWIN``, whose keys are their names."""
        node = cfg.MODEL.SWIN
        return {key.lower(): value for key, value in node.items()} | {
            "in_channels": input_shape.channels
        }

    @property
    def size_divisibility(self) -> int:
        """Detectron2 pads a batch to a multiple of this."""
        return _DIVISOR

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to the normalised maps of the chosen stages, channels first."""
        channels = self.patch_embed.proj.in_channels
        if images.dim() != 4 or images.shape[1] != channels or images.numel() == 0:
            raise ValueError(
                f"images must be (batch, {channels}, height, width) with at least one pixel, got "
                f"{tuple(images.shape)}"
            )
        maps = self.patch_embed(images)
        stages: Iterable[Any] = self.layers
        results = {}
        for index, stage in enumerate(stages):
            maps = stage(maps)
            name = f"res{_FIRST_STAGE + index}"
            if name in self._out_features:
                normalized: Tensor = getattr(self, f"norm{index}")(maps)
                results[name] = normalized.permute(0, 3, 1, 2).contiguous()
            if stage.downsample is not None:
                maps = stage.downsample(maps)
        return results

    def _set_outputs(
        self, stages: dict[str, int], widths: list[int], out_features: Sequence[str]
    ) -> None:
        unknown = [name for name in out_features if name not in stages]
        if unknown or not out_features:
            raise ValueError(
                f"out_features must name some of the stages {', '.join(stages)}, got "
                f"{', '.join(out_features) or 'none'}"
            )
        self._out_features = [name for name in stages if name in out_features]
        self._out_feature_strides = {name: _PATCH * 2**index for name, index in stages.items()}
        self._out_feature_channels = {name: widths[index] for name, index in stages.items()}
        for name in self._out_features:
            norm = nn.LayerNorm(self._out_feature_channels[name])
            self.add_module(f"norm{stages[name]}", norm)


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The Swin that ``MODEL.SWIN`` describes."""
    return SwinTransformer(cfg, input_shape)


def _growing(last: float, count: int) -> Iterator[float]:
    """Rates from 0 to the last one, in equal steps."""
    return (last * index / max(count - 1, 1) for index in range(count))


def _initialize(module: nn.Module) -> None:
    """Published models began so."""
    table = getattr(module, "relative_position_bias_table", None)
    if table is not None:
        nn.init.trunc_normal_(table, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_stages(widths: Sequence[int], depths: Sequence[int], num_heads: Sequence[int]) -> None:
    if not depths or len(depths) != len(num_heads):
        raise ValueError(
            "depths and num_heads must have a number for each stage, and at least one; got "
            f"{list(depths)} and {list(num_heads)}"
        )
    for name, numbers in (("depths", depths), ("num_heads", num_heads)):
        if min(numbers) < 1:
            raise ValueError(f"{name} must be positive, got {list(numbers)}")
    for width, heads in zip(widths, num_heads, strict=True):
        if width % heads:
            raise ValueError(
                f"num_heads must divide the channels of their stages, got {heads} heads for "
                f"{width} channels"
            )


def _check_rates(embed_dim: int, mlp_ratio: float, drop_path_rate: float) -> None:
    if embed_dim * mlp_ratio < 1:
        raise ValueError(
            f"mlp_ratio must leave the perceptrons a width, got {mlp_ratio} of {embed_dim} channels"
        )
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"drop_path_rate must be from 0 to below 1, got {drop_path_rate}")
