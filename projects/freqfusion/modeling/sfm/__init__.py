"""Detectron2 backbones, heads and models with Spatial Frequency Modulation."""

from freqfusion.modeling.sfm.backbone import (
    ModulatedBackbone,
    build_sfm_backbone,
    build_sfm_freqfusion_fpn_backbone,
    modulate_backbone,
    record_modulations,
)
from freqfusion.modeling.sfm.demodulation import ModulatedMaps
from freqfusion.modeling.sfm.pixel_decoder import SFMPixelDecoder
from freqfusion.modeling.sfm.segmentor import SFMSegmentor
from freqfusion.modeling.sfm.semantic_head import SFMSemSegHead

__all__ = [
    "ModulatedBackbone",
    "ModulatedMaps",
    "SFMPixelDecoder",
    "SFMSegmentor",
    "SFMSemSegHead",
    "build_sfm_backbone",
    "build_sfm_freqfusion_fpn_backbone",
    "modulate_backbone",
    "record_modulations",
]
