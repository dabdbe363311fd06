"""Mask2Former's pixel decoder with FreqFusion wherever a coarse map meets a fine one."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.modeling.fusion import FusionFactory, fusion_factory
from freqfusion.modeling.mask2former.pixel_decoder import DeformableAttentionPixelDecoder


@SEM_SEG_HEADS_REGISTRY.register()
class FreqFusionPixelDecoder(DeformableAttentionPixelDecoder):
    """The pixel decoder whose maps join by FreqFusion (Chen et al., TPAMI 2024).

    Before the encoder, each of its maps takes in the next coarser one, from coarse to fine; after
    it, the hops of the feature pyramid join by FreqFusion in place of adding interpolated maps.
    ``freqfusions`` has one module for each hop in this order: 0 for res5 to res4, 1 for res4 to
    res3, 2 for the encoder's res3 to res2 in the usual model. All other parameters are those of
    :class:`DeformableAttentionPixelDecoder`, and published weights of both load.

    Args, beside those of :class:`DeformableAttentionPixelDecoder`:
        make_fusion: Builds the module of one hop from the widths of its two maps. ``None`` gives
            the plain pixel decoder: same keys, same numbers.
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
    ):
        super().__init__(
            input_shape=input_shape,
            conv_dim=conv_dim,
            mask_dim=mask_dim,
            norm=norm,
            transformer_dropout=transformer_dropout,
            transformer_nheads=transformer_nheads,
            transformer_enc_layers=transformer_enc_layers,
            transformer_in_features=transformer_in_features,
            transformer_dim_feedforward=transformer_dim_feedforward,
            common_stride=common_stride,
            num_points=num_points,
            use_checkpoint=use_checkpoint,
        )
        self.freqfusions = None
        if make_fusion is not None:
            hops = len(self.encoder_features) - 1 + len(self.lateral_features)
            self.freqfusions = nn.ModuleList(make_fusion(conv_dim, conv_dim) for _ in range(hops))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.MASK2FORMER`` and ``MODEL.FREQFUSION``."""
        arguments = super().from_config(cfg, input_shape)
        enabled = cfg.MODEL.FREQFUSION.ENABLED
        return arguments | {"make_fusion": fusion_factory(cfg) if enabled else None}

    def mix(self, maps: list[Tensor]) -> list[Tensor]:
        """Let each map take in the one before it, which has taken in the ones before that."""
        if self.freqfusions is None:
            return super().mix(maps)
        mixed = maps[:1]
        for fusion, fine in zip(self.freqfusions, maps[1:], strict=False):
            mixed.append(_fuse(fusion, fine, mixed[-1]))
        return mixed

    def join(self, hop: int, fine: Tensor, coarse: Tensor) -> Tensor:
        """Join a lateral map with the decoder's map before it; ``hop`` counts from 0."""
        if self.freqfusions is None:
            return super().join(hop, fine, coarse)
        return _fuse(self.freqfusions[len(self.encoder_features) - 1 + hop], fine, coarse)


def _fuse(fusion: nn.Module, fine: Tensor, coarse: Tensor) -> Tensor:
    _, fine, coarse = fusion(hr_feat=fine, lr_feat=coarse)
    return fine + coarse
