"""InternImage by the names that ``MODEL.BACKBONE.NAME`` can have."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from freqfusion.modeling.backbone import build_p2_to_p6
from freqfusion.modeling.internimage.backbone import InternImage


@BACKBONE_REGISTRY.register()
def build_internimage_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The InternImage that ``MODEL.INTERNIMAGE`` describes."""
    return InternImage(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_internimage_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """InternImage and a pyramid p2..p6."""
    return build_p2_to_p6(cfg, build_internimage_backbone(cfg, input_shape))
