"""Semantic segmentation from one map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.layers.checks import check_positive
from freqfusion.modeling.pixel_loss import labelled_cross_entropy


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(nn.Module):
    """Two 3 x 3 convolutions and a classifier on one map, after Long et al., FCN, CVPR 2015.

    Args:
        in_feature: Name of the map.
        input_shape: Its channels and stride.
        num_classes: Number of classes.
        width: Channels of the convolutions.
        norm: Their normalisation, as in Detectron2.
        ignore_value: Label of pixels that have none.
        loss_weight: Factor of the loss.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        input_shape: ShapeSpec,
        num_classes: int,
        width: int,
        norm: str = "GN",
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ):
        super().__init__()
        check_positive(num_classes=num_classes, width=width)
        self.in_features, self.stride = [in_feature], input_shape.stride or 1
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
        channels = (input_shape.channels, width)
        self.convs = nn.Sequential(*(_convolution(given, width, norm) for given in channels))
        self.predictor = Conv2d(width, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.SEM_SEG_HEAD``."""
        head = cfg.MODEL.SEM_SEG_HEAD
        names = list(head.IN_FEATURES)
        if len(names) != 1 or names[0] not in input_shape:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.IN_FEATURES must name the one map that FCNHead reads, of "
                f"{', '.join(input_shape)}; got {', '.join(names) or 'none'}"
            )
        return {
            "in_feature": names[0],
            "input_shape": input_shape[names[0]],
            "num_classes": head.NUM_CLASSES,
            "width": head.CONVS_DIM,
            "norm": head.NORM,
            "ignore_value": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Losses in training, logits of every pixel otherwise, as in Detectron2's heads."""
        logits = self.predictor(self.convs(features[self.in_features[0]]))
        # The map may stick out of the image by a part of a pixel; labels and Detectron2's
        # post-processing both cut that off.
        logits = F.interpolate(logits.float(), scale_factor=self.stride, mode="bilinear")
        if not self.training:
            return logits, {}
        loss = labelled_cross_entropy(logits, targets, ignore_value=self.ignore_value)
        return None, {"loss_sem_seg": self.loss_weight * loss}


def _convolution(in_channels: int, out_channels: int, norm: str) -> nn.Module:
    convolution: nn.Module = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(convolution)
    return convolution
