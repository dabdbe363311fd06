"""Mask2Former's pixel decoder, and the same with FreqFusion where a coarse map meets a fine one.

Cheng, Misra, Schwing, Kirillov, Girdhar: Masked-attention Mask Transformer for Universal Image
Segmentation, CVPR 2022, section 3.2 and appendix. Shapes: B images; every map has its own H x W.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.layers.sfm import NonUniformUpsample
from freqfusion.modeling.fpn import FusionFactory, fusion_factory
from freqfusion.modeling.mask2former.deformable_encoder import DeformableEncoder

# What the transformer decoder accepts, and the groups of every group normalization.
NUM_MAPS = 3
_GROUPS = 32


@SEM_SEG_HEADS_REGISTRY.register()
class DeformableAttentionPixelDecoder(nn.Module):
    """Turn a backbone's maps into mask features and maps for the transformer decoder.

    The coarse maps go through a transformer encoder of deformable attention; from there a feature
    pyramid leads down to the map that masks are made of. Parameter names are those of the published
    weights.

    Args:
        input_shape: Channels and stride of each map of the backbone.
        conv_dim: Channels of all maps; a multiple of 32.
        mask_dim: Channels of the mask features.
        norm: Normalization in the feature pyramid, as in Detectron2; "" for none.
        transformer_dropout: Share of values that the encoder drops in training.
        transformer_nheads: Attention heads of the encoder.
        transformer_dim_feedforward: Width inside the encoder's feed-forward networks.
        transformer_enc_layers: Layers of the encoder.
        transformer_in_features: Names of the maps that go through the encoder.
        common_stride: Stride of the mask features. The maps from this stride up to those of the
            encoder form the feature pyramid; finer ones are not used.
        num_points: Points that a head of a pixel looks at in each map.
        use_checkpoint: Recompute the encoder's layers in the backward pass.
        make_fusion: Builds the module that joins two maps at each hop, from their widths, see
            :class:`FreqFusionPixelDecoder`. ``None`` adds interpolated maps, as published.
        demodulator: For ``SFMPixelDecoder``, which brings modulated maps back with it.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        conv_dim: int,
        mask_dim: int,
        norm: str,
        transformer_dropout: float,
        transformer_nheads: int,
        transformer_enc_layers: int,
        transformer_in_features: Sequence[str],
        transformer_dim_feedforward: int = 1024,
        common_stride: int = 4,
        num_points: int = 4,
        use_checkpoint: bool = False,
        make_fusion: FusionFactory | None = None,
        demodulator: NonUniformUpsample | None = None,
    ):
        super().__init__()
        check_positive(conv_dim=conv_dim, mask_dim=mask_dim, common_stride=common_stride)
        if conv_dim % _GROUPS:
            raise ValueError(
                f"conv_dim must be a multiple of {_GROUPS}, the number of groups of channels that "
                f"are normalized together; got {conv_dim}"
            )
        encoded, laterals = _plan(input_shape, transformer_in_features, common_stride)
        # Both from coarse to fine, the order of the computation.
        self.encoder_features, self.lateral_features = encoded, laterals
        self.channels = {name: input_shape[name].channels for name in (*encoded, *laterals)}
        self.input_proj = nn.ModuleList(
            _projection(self.channels[name], conv_dim) for name in encoded
        )
        self.transformer = DeformableEncoder(
            channels=conv_dim,
            num_levels=len(encoded),
            num_layers=transformer_enc_layers,
            nheads=transformer_nheads,
            num_points=num_points,
            dim_feedforward=transformer_dim_feedforward,
            dropout=transformer_dropout,
            use_checkpoint=use_checkpoint,
        )
        self.mask_features = Conv2d(conv_dim, mask_dim, kernel_size=1)
        weight_init.c2_xavier_fill(self.mask_features)
        for number, name in self._numbered_laterals():
            adapter = _convolution(self.channels[name], conv_dim, 1, norm)
            self.add_module(f"adapter_{number}", adapter)
            self.add_module(f"layer_{number}", _convolution(conv_dim, conv_dim, 3, norm, F.relu))
        self.freqfusions = None
        if make_fusion is not None:
            hops = len(encoded) - 1 + len(laterals)
            self.freqfusions = nn.ModuleList(make_fusion(conv_dim, conv_dim) for _ in range(hops))
        self.demodulator = demodulator
        self._add_parts(conv_dim)

    def _add_parts(self, conv_dim: int) -> None:
        """Add what a subclass has on top; called last by the constructor."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return arguments from ``MODEL.MASK2FORMER``."""
        node = cfg.MODEL.MASK2FORMER
        absent = [name for name in node.IN_FEATURES if name not in input_shape]
        if absent:
            raise ValueError(
                f"MODEL.MASK2FORMER.IN_FEATURES names {', '.join(absent)}; the backbone has "
                f"{', '.join(input_shape)}"
            )
        return {
            "input_shape": {name: input_shape[name] for name in node.IN_FEATURES},
            "conv_dim": node.CONV_DIM,
            "mask_dim": node.MASK_DIM,
            "norm": node.NORM,
            "transformer_dropout": node.DROPOUT,
            "transformer_nheads": node.NHEADS,
            "transformer_dim_feedforward": node.ENCODER_FEEDFORWARD,
            "transformer_enc_layers": node.ENCODER_LAYERS,
            "transformer_in_features": node.ENCODER_FEATURES,
            "common_stride": node.COMMON_STRIDE,
            "num_points": node.ENCODER_POINTS,
            "use_checkpoint": node.CHECKPOINT_ENCODER,
        }

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return what :meth:`forward_features` returns."""
        return self.forward_features(features)

    def forward_features(
        self, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Decode the maps of a backbone, (B, channels, H, W) each, of any sizes.

        Returns:
            The mask features (B, mask_dim, H, W) at the size of the finest map that is used, the
            encoder's coarsest map (B, conv_dim, H, W), and the three coarsest maps of the whole
            decoder, from coarse to fine.

        Raises:
            ValueError: if a map is missing or has other channels than ``input_shape`` has.
        """
        self._check_inputs(features)
        maps = [
            projection(features[name])
            for name, projection in zip(self.encoder_features, self.input_proj, strict=True)
        ]
        maps = self.transformer(self.mix(maps))
        for hop, (number, name) in enumerate(self._numbered_laterals()):
            lateral = self.get_submodule(f"adapter_{number}")(features[name])
            joined = self.join(hop, lateral, maps[-1])
            maps.append(self.get_submodule(f"layer_{number}")(joined))
        return self.mask_features(maps[-1]), maps[0], maps[:NUM_MAPS]

    def mix(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the projected maps, coarse to fine, as the encoder gets them.

        With fusion modules each has taken in the one before it, which has the ones before that.
        """
        if self.freqfusions is None:
            return maps
        mixed = maps[:1]
        for fusion, fine in zip(self.freqfusions, maps[1:], strict=False):
            mixed.append(_fuse(fusion, fine, mixed[-1]))
        return mixed

    def join(self, hop: int, fine: Tensor, coarse: Tensor) -> Tensor:
        """Join a lateral map with the decoder's map before it; ``hop`` counts from 0."""
        if self.freqfusions is not None:
            return _fuse(self.freqfusions[len(self.encoder_features) - 1 + hop], fine, coarse)
        size = (fine.shape[-2], fine.shape[-1])
        return fine + F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)

    def _numbered_laterals(self) -> list[tuple[int, str]]:
        """Return names from coarse to fine with the numbers of their layers; 1 is the finest."""
        names = self.lateral_features
        return [(len(names) - index, name) for index, name in enumerate(names)]

    def _check_inputs(self, features: Mapping[str, Tensor]) -> None:
        for name, channels in self.channels.items():
            if name not in features:
                raise ValueError(
                    f"the pixel decoder needs the maps {', '.join(self.channels)}; {name} is not "
                    f"among {', '.join(features) or 'none'}"
                )
            feat = features[name]
            if feat.dim() != 4 or feat.shape[1] != channels:
                raise ValueError(
                    f"{name} must have shape (batch, {channels}, height, width), as the pixel "
                    f"decoder was built for; got {tuple(feat.shape)}"
                )


@SEM_SEG_HEADS_REGISTRY.register()
class FreqFusionPixelDecoder(DeformableAttentionPixelDecoder):
    """The pixel decoder whose maps join by FreqFusion (Chen et al., TPAMI 2024).

    Before the encoder, each of its maps takes in the next coarser one, from coarse to fine; after
    it, the hops of the feature pyramid join by FreqFusion in place of adding interpolated maps.
    ``freqfusions`` has one module for each hop in this order: 0 for res5 to res4, 1 for res4 to
    res3, 2 for the encoder's res3 to res2 in the usual model. All other parameters are those of
    :class:`DeformableAttentionPixelDecoder`, and published weights of both load.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return the arguments from ``MODEL.MASK2FORMER`` and ``MODEL.FREQFUSION``."""
        arguments = super().from_config(cfg, input_shape)
        enabled = cfg.MODEL.FREQFUSION.ENABLED
        return arguments | {"make_fusion": fusion_factory(cfg) if enabled else None}


def _fuse(fusion: nn.Module, fine: Tensor, coarse: Tensor) -> Tensor:
    _, fine, coarse = fusion(hr_feat=fine, lr_feat=coarse)
    return fine + coarse


def _plan(
    input_shape: Mapping[str, ShapeSpec], encoder_features: Sequence[str], common_stride: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names of the encoder's maps and of the feature pyramid's, coarse to fine."""
    absent = [name for name in encoder_features if name not in input_shape]
    if absent or not encoder_features:
        raise ValueError(
            f"transformer_in_features must name some of the maps {', '.join(input_shape)}; got "
            f"{', '.join(encoder_features) or 'none'}"
        )
    strides: dict[str, int] = {}
    for name, shape in input_shape.items():
        if shape.stride is None:
            raise ValueError(f"input_shape must have the stride of every map; {name} has none")
        strides[name] = shape.stride
    coarse_first = sorted(strides, key=lambda name: -strides[name])
    finest_encoded = min(strides[name] for name in encoder_features)
    encoded = tuple(name for name in coarse_first if name in encoder_features)
    laterals = tuple(n for n in coarse_first if common_stride <= strides[n] < finest_encoded)
    used = (*encoded, *laterals)
    if strides[used[-1]] != common_stride:
        raise ValueError(
            f"common_stride must be the stride of a map that the mask features are made from, at "
            f"most {finest_encoded}, the finest one of the encoder; got {common_stride} for maps "
            f"of strides {sorted(strides.values())}"
        )
    if len(used) < NUM_MAPS:
        raise ValueError(
            f"the transformer decoder takes {NUM_MAPS} maps, but transformer_in_features and "
            f"common_stride leave only {', '.join(used)}"
        )
    return encoded, laterals


class _GroupNorm(nn.GroupNorm):
    """Group normalization that also takes groups of a single value, which a map of one pixel has.

    Such a value is its own mean and becomes the bias, where torch's module raises an error.
    """

    def forward(self, feat: Tensor) -> Tensor:
        return torch.group_norm(feat, self.num_groups, self.weight, self.bias, self.eps)


def _projection(in_channels: int, out_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    nn.init.xavier_uniform_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, _GroupNorm(_GROUPS, out_channels))


def _convolution(
    in_channels: int, out_channels: int, kernel_size: int, norm: str, activation: Any = None
) -> nn.Module:
    normalization = (
        _GroupNorm(_GROUPS, out_channels) if norm == "GN" else get_norm(norm, out_channels)
    )
    convolution = Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=normalization,
        activation=activation,
    )
    weight_init.c2_xavier_fill(convolution)
    return convolution  # type: ignore[no-any-return]
