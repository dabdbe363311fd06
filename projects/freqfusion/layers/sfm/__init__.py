"""Spatial Frequency Modulation: stretch detail before a strided layer, undo it at the end.

Chen, Fu, Gu, Zheng, Dai: Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025. Each
module says which of it is published and which is our design.
"""

from freqfusion.layers.sampling import interpolate_at
from freqfusion.layers.sfm.attention import SemanticHighFreqAttention
from freqfusion.layers.sfm.displacement import (
    AdaptiveResampling,
    modulate,
    saliency_to_displacement,
)
from freqfusion.layers.sfm.inversion import invert_displacement
from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.relation import LocalPixelRelation
from freqfusion.layers.sfm.spectrum import aliasing_ratio, equivalent_sampling_rate
from freqfusion.layers.sfm.supervision import (
    attention_edge_loss,
    semantic_edge_target,
    warp_edge_target,
)
from freqfusion.layers.sfm.upsampling import (
    MultiScaleAdaptiveUpsampling,
    NonUniformUpsample,
    ThreePointReassembly,
)

__all__ = [
    "AdaptiveResampling",
    "LocalPixelRelation",
    "Mapping",
    "MappingStack",
    "MultiScaleAdaptiveUpsampling",
    "NonUniformUpsample",
    "SemanticHighFreqAttention",
    "ThreePointReassembly",
    "aliasing_ratio",
    "attention_edge_loss",
    "equivalent_sampling_rate",
    "interpolate_at",
    "invert_displacement",
    "modulate",
    "saliency_to_displacement",
    "semantic_edge_target",
    "warp_edge_target",
]
