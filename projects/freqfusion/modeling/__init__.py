"""Detectron2 backbones, heads and meta-architectures. Importing this registers all of them."""

from freqfusion.modeling.backbone import (
    build_resnet_freqfusion_fpn_backbone,
    build_retinanet_resnet_freqfusion_fpn_backbone,
    build_timm_freqfusion_fpn_backbone,
)
from freqfusion.modeling.fpn import FreqFusionFPN
from freqfusion.modeling.mask2former import (
    DeformableAttentionPixelDecoder,
    FreqFusionPixelDecoder,
    Mask2Former,
    Mask2FormerHead,
)
from freqfusion.modeling.semantic_head import FreqFusionSemSegHead
from freqfusion.modeling.timm_backbone import TimmBackbone, build_timm_backbone

__all__ = [
    "DeformableAttentionPixelDecoder",
    "FreqFusionFPN",
    "FreqFusionPixelDecoder",
    "FreqFusionSemSegHead",
    "Mask2Former",
    "Mask2FormerHead",
    "TimmBackbone",
    "build_resnet_freqfusion_fpn_backbone",
    "build_retinanet_resnet_freqfusion_fpn_backbone",
    "build_timm_backbone",
    "build_timm_freqfusion_fpn_backbone",
]
