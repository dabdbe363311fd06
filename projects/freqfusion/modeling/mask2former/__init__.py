"""Mask2Former: pixel decoders, transformer decoder, criterion and inference."""

from freqfusion.modeling.mask2former.criterion import SetCriterion
from freqfusion.modeling.mask2former.freqfusion_pixel_decoder import FreqFusionPixelDecoder
from freqfusion.modeling.mask2former.head import Mask2FormerHead
from freqfusion.modeling.mask2former.matcher import HungarianMatcher
from freqfusion.modeling.mask2former.meta_architecture import Mask2Former
from freqfusion.modeling.mask2former.pixel_decoder import DeformableAttentionPixelDecoder
from freqfusion.modeling.mask2former.transformer_decoder import MaskedAttentionDecoder

__all__ = [
    "DeformableAttentionPixelDecoder",
    "FreqFusionPixelDecoder",
    "HungarianMatcher",
    "Mask2Former",
    "Mask2FormerHead",
    "MaskedAttentionDecoder",
    "SetCriterion",
]
