"""Swin, as Mask2Former's published models have it."""

from freqfusion.modeling.swin.backbone import SwinTransformer, build_swin_backbone

__all__ = ["SwinTransformer", "build_swin_backbone"]
