"""Dilated ResNets and backbones with a FreqFusion pyramid, as ``MODEL.BACKBONE.NAME`` says."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from freqfusion.modeling.fpn import FreqFusionFPN, fusion_factory
from freqfusion.modeling.timm_backbone import build_timm_backbone

logger = logging.getLogger(__name__)

# Dilations of res4 and res5 for each stride of the coarsest map.
_DILATIONS = {32: (1, 1), 16: (1, 2), 8: (2, 4)}


@BACKBONE_REGISTRY.register()
def build_resnet_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build ResNet and a pyramid p2..p6, for R-CNN and for semantic and panoptic FPN.

    Without res2 in ``MODEL.FPN.IN_FEATURES`` it begins at p3.
    """
    return build_p2_to_p6(cfg, build_resnet_backbone(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_freqfusion_fpn_backbone(
    cfg: CfgNode, input_shape: ShapeSpec
) -> Backbone:
    """Build ResNet and a pyramid p3..p7, for RetinaNet and FCOS."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    channels = bottom_up.output_shape()["res5"].channels
    top_block = LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return build_pyramid(cfg, bottom_up, top_block)


@BACKBONE_REGISTRY.register()
def build_timm_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build a timm model and a pyramid p2..p6."""
    return build_p2_to_p6(cfg, build_timm_backbone(cfg, input_shape))


def build_p2_to_p6(cfg: CfgNode, bottom_up: Backbone) -> Backbone:
    """Build p2..p6 on a given backbone; p6 is pooled where no fused level stands there."""
    return build_pyramid(cfg, bottom_up, LastLevelMaxPool())


def build_pyramid(
    cfg: CfgNode, bottom_up: Backbone, top_block: LastLevelMaxPool | LastLevelP6P7
) -> Backbone:
    """Build the pyramid that the configuration describes, on a given backbone.

    With ``MODEL.FREQFUSION.ENABLED`` off it is Detectron2's own ``FPN``.
    ``MODEL.FREQFUSION.FUSED_TOP_LEVEL`` puts as many fused levels in the place of the top block as
    this makes.
    """
    options: dict[str, Any] = {
        "bottom_up": bottom_up,
        "in_features": cfg.MODEL.FPN.IN_FEATURES,
        "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
        "norm": cfg.MODEL.FPN.NORM,
        "fuse_type": cfg.MODEL.FPN.FUSE_TYPE,
    }
    node = cfg.MODEL.FREQFUSION
    if not node.ENABLED:
        logger.info("MODEL.FREQFUSION.ENABLED is off: using Detectron2's FPN")
        return FPN(**options, top_block=top_block)
    logger.info("FPN levels are joined by %s", node.FUSE_TYPE)
    options["make_fusion"] = fusion_factory(cfg)
    if node.FUSED_TOP_LEVEL:
        return FreqFusionFPN(**options, fused_top_levels=top_block.num_levels)
    return FreqFusionFPN(**options, top_block=top_block)


@BACKBONE_REGISTRY.register()
def build_dilated_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Build a ResNet whose coarsest maps have ``MODEL.RESNETS.OUTPUT_STRIDE``: 32, 16 or 8.

    Keys and weights are those of Detectron2's ResNet.
    """
    node = cfg.MODEL.RESNETS
    if node.OUTPUT_STRIDE not in _DILATIONS:
        raise ValueError(
            f"MODEL.RESNETS.OUTPUT_STRIDE must be 32, 16 or 8; got {node.OUTPUT_STRIDE}"
        )
    if node.RES5_DILATION != 1:
        raise ValueError(
            "build_dilated_resnet_backbone sets dilations itself: leave MODEL.RESNETS.RES5_DILATION"
            f" at 1, got {node.RES5_DILATION}, and set MODEL.RESNETS.OUTPUT_STRIDE"
        )
    backbone: Any = build_resnet_backbone(cfg, input_shape)
    spared = 1
    for name, dilation in zip(("res4", "res5"), _DILATIONS[node.OUTPUT_STRIDE], strict=True):
        if name not in backbone.stage_names:
            continue
        if dilation > 1:
            spared *= _dilate(backbone.get_submodule(name), dilation)
        backbone._out_feature_strides[name] //= spared
    result: Backbone = backbone
    return result


def _dilate(stage: nn.Module, dilation: int) -> int:
    """Give the 3 x 3 convolutions of a stage a dilation and take its stride, which is returned."""
    stride = 1
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            stride = max(stride, module.stride[0])
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation, module.padding = (dilation, dilation), (dilation, dilation)
    for block in stage.children():
        block.stride = 1  # type: ignore[assignment]
    return stride


def with_memory_format(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Return the model with weights and maps in the memory format of ``MODEL.CHANNELS_LAST``."""
    if cfg.MODEL.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)
        for module in model.modules():
            if isinstance(module, Backbone):
                module.register_forward_pre_hook(_channels_last)
    return model


def _channels_last(module: nn.Module, images: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Bring the images to channels_last; the layers keep it."""
    if torch.compiler.is_exporting():
        return None
    return tuple(
        one.contiguous(memory_format=torch.channels_last)
        if isinstance(one, Tensor) and one.dim() == 4
        else one
        for one in images
    )
