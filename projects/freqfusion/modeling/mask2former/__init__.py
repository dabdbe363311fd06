"""Mask2Former: pixel decoders, transformer decoder, criterion and inference."""

from freqfusion.modeling.mask2former.criterion import SetCriterion
from freqfusion.modeling.mask2former.matcher import HungarianMatcher
from freqfusion.modeling.mask2former.meta_architecture import Mask2Former, Mask2FormerHead
from freqfusion.modeling.mask2former.pixel_decoder import (
    DeformableAttentionPixelDecoder,
    FreqFusionPixelDecoder,
)
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
