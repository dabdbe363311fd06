"""Semantic segmentation from concatenated maps."""

from collections.abc import Mapping
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.layers import Concatenation, FreqFusionConcat, InterpolationUpsampling
from freqfusion.modeling.fusion import freqfusion_arguments, fusion_factory
from freqfusion.modeling.pixel_loss import labelled_cross_entropy


@SEM_SEG_HEADS_REGISTRY.register()
class FreqFusionSemSegHead(nn.Module):
    """Join the maps of a backbone at the size of the finest one and classify every pixel.

    The concatenation form of Chen et al., FreqFusion, TPAMI 2024, followed by one convolution and
    the classifier (the published heads have a matrix decomposition between the two, which this one
    has not). For Detectron2's ``SemanticSegmentor``, directly on a backbone without a pyramid.

    Args:
        input_shape: Channels and stride of each map that is used.
        join: The concatenation, built for these maps from fine to coarse.
        num_classes: Number of classes.
        width: Channels before the classifier.
        norm: Normalisation of that convolution.
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
        super().__init__()
        self.in_features = sorted(input_shape, key=lambda name: input_shape[name].stride or 0)
        self.stride = input_shape[self.in_features[0]].stride
        self.ignore_value, self.loss_weight = ignore_value, loss_weight
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
        """Arguments from ``MODEL.SEM_SEG_HEAD`` and ``MODEL.FREQFUSION``."""
        head = cfg.MODEL.SEM_SEG_HEAD
        absent = [name for name in head.IN_FEATURES if name not in input_shape]
        if absent:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES names {', '.join(absent)}; the backbone has "
                f"{', '.join(input_shape)}"
            )
        used = {name: input_shape[name] for name in head.IN_FEATURES}
        ordered = sorted(used.values(), key=lambda shape: shape.stride or 0)
        return {
            "input_shape": used,
            "join": _build_join(cfg, [shape.channels for shape in ordered]),
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
        logits = self.predictor(self.squeeze(self.join([features[n] for n in self.in_features])))
        # The maps may stick out of the image by a part of a pixel; labels and Detectron2's
        # post-processing both cut that off.
        logits = F.interpolate(logits.float(), scale_factor=self.stride, mode="bilinear")
        if not self.training:
            return logits, {}
        loss = labelled_cross_entropy(logits, targets, ignore_value=self.ignore_value)
        return None, {"loss_sem_seg": self.loss_weight * loss}


def _build_join(cfg: CfgNode, channels: list[int]) -> Concatenation:
    """FreqFusion at every step, or the baseline that the configuration names."""
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
