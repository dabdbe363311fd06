"""Modulated backbones by the names that ``MODEL.BACKBONE.NAME`` can have."""

import logging

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from freqfusion.modeling.backbone import build_p2_to_p6
from freqfusion.modeling.sfm.backbone import ModulatedBackbone
from freqfusion.modeling.sfm.settings import build_wrapped

logger = logging.getLogger(__name__)


@BACKBONE_REGISTRY.register()
def build_sfm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The backbone that ``MODEL.SFM.BACKBONE`` names, modulated as ``MODEL.SFM`` says.

    With ``MODEL.SFM.ENABLED`` off it is the bare backbone. With neither a displacement nor a weight
    of the edge loss it has no attention, hence no new parameters.
    """
    if not cfg.MODEL.SFM.ENABLED:
        logger.info("MODEL.SFM.ENABLED is off: using %s", cfg.MODEL.SFM.BACKBONE)
        return build_wrapped(cfg, input_shape)
    backbone = ModulatedBackbone(cfg, input_shape)
    logger.info("Spatial frequency modulation: %s", backbone.extra_repr())
    return backbone


@BACKBONE_REGISTRY.register()
def build_sfm_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """A modulated backbone and a pyramid p2..p6, by FreqFusion or, that switched off, Detectron2's.

    Raises:
        ValueError: if maps leave the backbone in spaces of their own: a pyramid adds them up.
    """
    node = cfg.MODEL.SFM
    if node.ENABLED and node.DEMODULATE == "head":
        raise ValueError(
            "a pyramid adds maps of several stages, which must lie in one space: set "
            f'MODEL.SFM.DEMODULATE to "exit", got {node.DEMODULATE!r}'
        )
    return build_p2_to_p6(cfg, build_sfm_backbone(cfg, input_shape))
