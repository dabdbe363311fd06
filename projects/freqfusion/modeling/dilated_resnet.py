"""Detectron2's ResNet with dilation in place of its last strides."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from torch import nn

# Dilations of res4 and res5 for each stride of the coarsest map.
_DILATIONS = {32: (1, 1), 16: (1, 2), 8: (2, 4)}


@BACKBONE_REGISTRY.register()
def build_dilated_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet whose coarsest maps have ``MODEL.RESNETS.OUTPUT_STRIDE``: 32, 16 or 8.

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
