"""The layers of this project as plain torch modules and functions.

They need nothing but torch and can be used in any model; docs/layers.md shows where they go.
"""

from freqfusion.layers.concatenation import Concatenation, FreqFusionConcat
from freqfusion.layers.deformable import (
    MultiScaleDeformableAttention,
    deformable_attention,
)
from freqfusion.layers.deformable_convolution import (
    DeformableConvolutionV3,
    deformable_convolution_v3,
)
from freqfusion.layers.freqfusion import FreqFusion
from freqfusion.layers.reassembly import hamming_window, normalize_kernels, reassemble
from freqfusion.layers.sampler import LocalSimilaritySampler, local_similarity
from freqfusion.layers.sampling import sample_at_offsets
from freqfusion.layers.sfm import (
    AdaptiveResampling,
    LocalPixelRelation,
    Mapping,
    MappingStack,
    MultiScaleAdaptiveUpsampling,
    NonUniformUpsample,
    ThreePointReassembly,
)
from freqfusion.layers.upsampling import (
    CarafeUpsampling,
    DySampleUpsampling,
    InterpolationUpsampling,
)

__all__ = [
    "AdaptiveResampling",
    "CarafeUpsampling",
    "Concatenation",
    "DeformableConvolutionV3",
    "DySampleUpsampling",
    "FreqFusion",
    "FreqFusionConcat",
    "InterpolationUpsampling",
    "LocalPixelRelation",
    "LocalSimilaritySampler",
    "Mapping",
    "MappingStack",
    "MultiScaleAdaptiveUpsampling",
    "MultiScaleDeformableAttention",
    "NonUniformUpsample",
    "ThreePointReassembly",
    "deformable_attention",
    "deformable_convolution_v3",
    "hamming_window",
    "local_similarity",
    "normalize_kernels",
    "reassemble",
    "sample_at_offsets",
]
