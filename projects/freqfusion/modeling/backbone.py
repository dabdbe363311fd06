"""Backbones with a FreqFusion pyramid, by the names that ``MODEL.BACKBONE.NAME`` can have."""

import logging

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from freqfusion.modeling.fpn import FreqFusionFPN
from freqfusion.modeling.fusion import fusion_factory
from freqfusion.modeling.timm_backbone import build_timm_backbone

logger = logging.getLogger(__name__)


@BACKBONE_REGISTRY.register()
def build_resnet_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet and a pyramid p2..p6, for R-CNN and for semantic and panoptic FPN."""
    return build_p2_to_p6(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_freqfusion_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> Backbone:
    """ResNet and a pyramid p3..p7, for RetinaNet and FCOS."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    top_block = LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return build_pyramid(cfg, bottom_up, top_block)


@BACKBONE_REGISTRY.register()
def build_timm_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A timm model and a pyramid p2..p6."""
    return build_p2_to_p6(cfg, build_timm_backbone(cfg, input_shape))


def build_p2_to_p6(cfg: CfgNode, bottom_up: Backbone) -> Backbone:
    """The pyramid p2..p6 on a given backbone; p6 is pooled where no fused level stands there."""
    top_block = None if _fuses_top_level(cfg) else LastLevelMaxPool()
    return build_pyramid(cfg, bottom_up, top_block)


def build_pyramid(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module | None) -> Backbone:
    """The pyramid that the configuration describes, on a given backbone.

    With ``MODEL.FREQFUSION.ENABLED`` off it is Detectron2's own ``FPN``.
    """
    options = {
        "bottom_up": bottom_up,
        "in_features": cfg.MODEL.FPN.IN_FEATURES,
        "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
        "norm": cfg.MODEL.FPN.NORM,
        "top_block": top_block,
        "fuse_type": cfg.MODEL.FPN.FUSE_TYPE,
    }
    if not cfg.MODEL.FREQFUSION.ENABLED:
        logger.info("MODEL.FREQFUSION.ENABLED is off: using Detectron2's FPN")
        return FPN(**options)
    logger.info("FPN levels are joined by %s", cfg.MODEL.FREQFUSION.FUSE_TYPE)
    return FreqFusionFPN(
        **options, make_fusion=fusion_factory(cfg), fused_top_level=_fuses_top_level(cfg)
    )


def _fuses_top_level(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.FREQFUSION.ENABLED and cfg.MODEL.FREQFUSION.FUSED_TOP_LEVEL)
