"""Pixel decoder and transformer decoder as one head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.modeling.mask2former.predictions import DecoderOutput
from freqfusion.modeling.mask2former.transformer_decoder import MaskedAttentionDecoder


@SEM_SEG_HEADS_REGISTRY.register()
class Mask2FormerHead(nn.Module):
    """From the maps of a backbone to the classes and masks of the queries.

    Args:
        pixel_decoder: Gives mask features, its coarsest map and three maps, coarse to fine.
        predictor: The transformer decoder.
    """

    @configurable
    def __init__(self, *, pixel_decoder: nn.Module, predictor: nn.Module):
        super().__init__()
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.MASK2FORMER`` and ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``."""
        node = cfg.MODEL.MASK2FORMER
        return {
            "pixel_decoder": SEM_SEG_HEADS_REGISTRY.get(node.PIXEL_DECODER)(cfg, input_shape),
            "predictor": MaskedAttentionDecoder(
                in_channels=node.CONV_DIM,
                num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
                hidden_dim=node.HIDDEN_DIM,
                num_queries=node.NUM_QUERIES,
                nheads=node.NHEADS,
                dim_feedforward=node.DECODER_FEEDFORWARD,
                dec_layers=node.DECODER_LAYERS,
                pre_norm=node.PRE_NORM,
                mask_dim=node.MASK_DIM,
                enforce_input_project=node.ENFORCE_INPUT_PROJ,
            ),
        }

    def forward(self, features: Mapping[str, Tensor]) -> DecoderOutput:
        """Predictions of every query; auxiliary ones in training only."""
        mask_features, _, maps = self.pixel_decoder(features)
        output: DecoderOutput = self.predictor(maps, mask_features, auxiliary=self.training)
        return output
