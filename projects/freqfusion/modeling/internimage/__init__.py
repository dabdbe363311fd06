"""InternImage, a backbone of deformable convolutions."""

from freqfusion.modeling.internimage.backbone import InternImage
from freqfusion.modeling.internimage.builders import (
    build_internimage_backbone,
    build_internimage_freqfusion_fpn_backbone,
)

__all__ = [
    "InternImage",
    "build_internimage_backbone",
    "build_internimage_freqfusion_fpn_backbone",
]
