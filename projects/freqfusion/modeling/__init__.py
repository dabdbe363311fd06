"""Detectron2 backbones, heads and meta-architectures. Importing this registers all of them."""

from freqfusion.modeling.backbone import (
    build_resnet_freqfusion_fpn_backbone,
    build_retinanet_resnet_freqfusion_fpn_backbone,
)
from freqfusion.modeling.fpn import FreqFusionFPN

__all__ = [
    "FreqFusionFPN",
    "build_resnet_freqfusion_fpn_backbone",
    "build_retinanet_resnet_freqfusion_fpn_backbone",
]
