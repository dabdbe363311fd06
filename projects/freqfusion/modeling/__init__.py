"""Detectron2 backbones, heads and meta-architectures. Importing this registers all of them."""

from freqfusion.modeling.backbone import (
    build_dilated_resnet_backbone,
    build_resnet_freqfusion_fpn_backbone,
    build_retinanet_resnet_freqfusion_fpn_backbone,
    build_timm_freqfusion_fpn_backbone,
    with_memory_format,
)
from freqfusion.modeling.fpn import FreqFusionFPN
from freqfusion.modeling.internimage import (
    InternImage,
    build_internimage_backbone,
    build_internimage_freqfusion_fpn_backbone,
)
from freqfusion.modeling.light_ham_head import LightHamHead
from freqfusion.modeling.mask2former import (
    DeformableAttentionPixelDecoder,
    FreqFusionPixelDecoder,
    Mask2Former,
    Mask2FormerHead,
)
from freqfusion.modeling.mscan import MSCAN, build_mscan_backbone
from freqfusion.modeling.semantic_head import FCNHead, FreqFusionSemSegHead
from freqfusion.modeling.sfm import (
    ModulatedBackbone,
    SFMPixelDecoder,
    SFMSegmentor,
    SFMSemSegHead,
    build_sfm_backbone,
    build_sfm_freqfusion_fpn_backbone,
)
from freqfusion.modeling.swin import SwinTransformer, build_swin_backbone
from freqfusion.modeling.timm_backbone import TimmBackbone, build_timm_backbone

__all__ = [
    "MSCAN",
    "DeformableAttentionPixelDecoder",
    "FCNHead",
    "FreqFusionFPN",
    "FreqFusionPixelDecoder",
    "FreqFusionSemSegHead",
    "InternImage",
    "LightHamHead",
    "Mask2Former",
    "Mask2FormerHead",
    "ModulatedBackbone",
    "SFMPixelDecoder",
    "SFMSegmentor",
    "SFMSemSegHead",
    "SwinTransformer",
    "TimmBackbone",
    "build_dilated_resnet_backbone",
    "build_internimage_backbone",
    "build_internimage_freqfusion_fpn_backbone",
    "build_mscan_backbone",
    "build_resnet_freqfusion_fpn_backbone",
    "build_retinanet_resnet_freqfusion_fpn_backbone",
    "build_sfm_backbone",
    "build_sfm_freqfusion_fpn_backbone",
    "build_swin_backbone",
    "build_timm_backbone",
    "build_timm_freqfusion_fpn_backbone",
    "with_memory_format",
]
