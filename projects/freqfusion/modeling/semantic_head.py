"""Semantic segmentation heads: from one map, and from concatenated maps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.layers import Concatenation, FreqFusionConcat, InterpolationUpsampling
from freqfusion.layers.checks import check_positive
from freqfusion.modeling.fpn import freqfusion_arguments, fusion_factory


class PixelHead(nn.Module):
    """Classify every pixel of what :meth:`decode` makes of a backbone's maps.

    Args:
        input_shape: Channels and stride of each map that is read; the decoded map has the size of
            the finest one.
        num_classes: Number of classes; only checked here.
        width: Channels before the classifier; only checked here.
        ignore_value: Label of pixels that have none.
        loss_weight: Factor of the loss.
    """

    predictor: nn.Module

    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        num_classes: int,
        width: int,
        ignore_value: int,
        loss_weight: float,
    ):
        super().__init__()
        check_positive(num_classes=num_classes, width=width)
        self.in_features = fine_to_coarse(input_shape, input_shape)
        self.stride = input_shape[self.in_features[0]].stride or 1
        self.ignore_value, self.loss_weight = ignore_value, loss_weight

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the map (B, width, H, W) that is classified."""
        raise NotImplementedError

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return losses in training, logits of every pixel otherwise, as Detectron2's heads do."""
        logits = self.predictor(self.decode(features))
        # The map may stick out of the image by a part of a pixel; labels and Detectron2's
        # post-processing both cut that off.
        logits = F.interpolate(logits.float(), scale_factor=self.stride, mode="bilinear")
        if not self.training:
            return logits, {}
        loss = labeled_cross_entropy(logits, targets, ignore_value=self.ignore_value)
        return None, {"loss_sem_seg": self.loss_weight * loss}


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(PixelHead):
    """Two 3 x 3 convolutions and a classifier on one map, after Long et al., FCN, CVPR 2015.

    Args:
        in_feature: Name of the map.
        input_shape: Its channels and stride.
        num_classes: Number of classes.
        width: Channels of the convolutions.
        norm: Their normalization, as in Detectron2.
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
        super().__init__(
            input_shape={in_feature: input_shape},
            num_classes=num_classes,
            width=width,
            ignore_value=ignore_value,
            loss_weight=loss_weight,
        )
        channels = (input_shape.channels, width)
        self.convs = nn.Sequential(*(_convolution(given, width, norm) for given in channels))
        self.predictor = Conv2d(width, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return arguments from ``MODEL.SEM_SEG_HEAD``."""
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
            **head_arguments(cfg),
        }

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the map after the convolutions."""
        decoded: Tensor = self.convs(features[self.in_features[0]])
        return decoded


@SEM_SEG_HEADS_REGISTRY.register()
class FreqFusionSemSegHead(PixelHead):
    """Join the maps of a backbone at the size of the finest one and classify every pixel.

    The concatenation form of Chen et al., FreqFusion, TPAMI 2024, followed by one convolution and
    the classifier (the published heads have a matrix decomposition between the two, which this one
    has not). For Detectron2's ``SemanticSegmentor``, directly on a backbone without a pyramid.

    Args:
        input_shape: Channels and stride of each map that is used.
        join: The concatenation, built for these maps from fine to coarse.
        num_classes: Number of classes.
        width: Channels before the classifier.
        norm: Normalization of that convolution.
        ignore_value: Label of pixels that have none.
        loss_weight: Factor of the loss.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, ShapeSpec],
        join: Concatenation,
        num_classes: int,
        width: int,
        norm: str = "GN",
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ):
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            width=width,
            ignore_value=ignore_value,
            loss_weight=loss_weight,
        )
        self.join = join
        self.squeeze = Conv2d(
            join.out_channels,
            width,
            kernel_size=1,
            bias=not norm,
            norm=get_norm(norm, width),
            activation=F.relu,
        )
        self.predictor = Conv2d(width, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.squeeze)
        weight_init.c2_msra_fill(self.predictor)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return arguments from ``MODEL.SEM_SEG_HEAD`` and ``MODEL.FREQFUSION``."""
        used = used_maps(cfg, input_shape)
        return {
            "input_shape": used,
            "join": build_join(cfg, [shape.channels for shape in used.values()]),
            **head_arguments(cfg),
        }

    def decode(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the joined maps after one convolution."""
        decoded: Tensor = self.squeeze(self.join([features[name] for name in self.in_features]))
        return decoded


def labeled_cross_entropy(logits: Tensor, targets: Tensor | None, *, ignore_value: int) -> Tensor:
    """Return the mean cross-entropy over the labeled pixels, 0 where there are none.

    Args:
        logits: (B, classes, H, W); what lies beyond the targets below and to the right is cut off.
        targets: (B, h, w), not larger.
        ignore_value: Label of pixels that have none.
    """
    if targets is None:
        raise ValueError("in training the head needs the labels (sem_seg) of every image")
    height, width = targets.shape[-2:]
    loss = F.cross_entropy(
        logits[..., :height, :width], targets, ignore_index=ignore_value, reduction="none"
    )
    return loss.sum() / (targets != ignore_value).sum().clamp(min=1)


def used_maps(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, ShapeSpec]:
    """Return the maps that ``MODEL.SEM_SEG_HEAD.IN_FEATURES`` names, from fine to coarse."""
    head = cfg.MODEL.SEM_SEG_HEAD
    absent = [name for name in head.IN_FEATURES if name not in input_shape]
    if absent:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {', '.join(absent)}; the backbone has "
            f"{', '.join(input_shape)}"
        )
    return {name: input_shape[name] for name in fine_to_coarse(head.IN_FEATURES, input_shape)}


def fine_to_coarse(names: Iterable[str], shapes: Mapping[str, ShapeSpec]) -> list[str]:
    """Return names of maps in the order of their strides."""
    return sorted(names, key=lambda name: shapes[name].stride or 0)


def head_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Return what ``MODEL.SEM_SEG_HEAD`` says for every head."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return {
        "num_classes": head.NUM_CLASSES,
        "width": head.CONVS_DIM,
        "norm": head.NORM,
        "ignore_value": head.IGNORE_VALUE,
        "loss_weight": head.LOSS_WEIGHT,
    }


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


def build_join(cfg: CfgNode, channels: list[int]) -> Concatenation:
    """Build FreqFusion for every step, or the baseline that the configuration names."""
    node = cfg.MODEL.FREQFUSION
    if node.ENABLED and node.FUSE_TYPE == "freqfusion":
        fusion = freqfusion_arguments(cfg)
        del fusion["compressed_channels"]
        return FreqFusionConcat(
            in_channels=channels, compress_ratio=node.COMPRESS_RATIO, fusion=fusion
        )
    if node.ENABLED:
        return Concatenation(in_channels=channels, make_fusion=fusion_factory(cfg))
    return Concatenation(
        in_channels=channels, make_fusion=lambda hr, lr: InterpolationUpsampling(mode="bilinear")
    )
