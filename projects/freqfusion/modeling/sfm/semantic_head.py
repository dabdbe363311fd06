"""Semantic segmentation from modulated maps, brought back to the image before it is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from torch import Tensor, nn

from freqfusion.layers.sfm import MappingStack, MultiScaleAdaptiveUpsampling, NonUniformUpsample
from freqfusion.modeling.semantic_head import (
    FCNHead,
    FreqFusionSemSegHead,
    labeled_cross_entropy,
)
from freqfusion.modeling.sfm.demodulation import (
    build_demodulator,
    demodulate_in_place_of,
    mappings_of,
)


@SEM_SEG_HEADS_REGISTRY.register()
class SFMSemSegHead(nn.Module):
    """Multi-scale adaptive upsampling behind another semantic head.

    The order is that of the published figure (Chen et al., Spatial Frequency Modulation, TPAMI
    2025): the head classifies in modulated space; its logits are demodulated to the lattice of the
    first resampling, averaged there by relation modules, and resized to the image, where the loss
    is. A head that joins several maps must not add maps of different spaces. Our design there:
    ``SemSegFPNHead``'s branches are demodulated at its common stride before they are summed, and
    the maps of a ``FreqFusionSemSegHead`` at their own sizes before they are joined.

    It reads maps that are still modulated (``MODEL.SFM.DEMODULATE`` "head"); others pass as they
    are.

    Args:
        head: ``FCNHead``, ``SemSegFPNHead`` or ``FreqFusionSemSegHead``; its own losses and
            upsampling are not used.
        strides: Stride of each map that the head reads.
        upsampling: Takes the head's logits, guided by the features that they were predicted from.
        demodulator: For the maps of heads that join several.
    """

    @configurable
    def __init__(
        self,
        *,
        head: nn.Module,
        strides: Mapping[str, int],
        upsampling: MultiScaleAdaptiveUpsampling,
        demodulator: NonUniformUpsample,
    ):
        super().__init__()
        _check_head(head)
        inner: Any = head
        self.head = inner
        self.strides = {name: strides[name] for name in inner.in_features}
        self.finest = min(self.strides, key=lambda name: self.strides[name])
        self.upsampling, self.demodulator = upsampling, demodulator
        self.ignore_value: int = inner.ignore_value
        self.loss_weight: float = inner.loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Arguments from ``MODEL.SFM``; those of the inner head from where it looks for them."""
        node = cfg.MODEL.SFM
        if cls.__name__ == node.HEAD:
            raise ValueError(
                "MODEL.SFM.HEAD names the head inside SFMSemSegHead: FCNHead, SemSegFPNHead or "
                "FreqFusionSemSegHead"
            )
        head = SEM_SEG_HEADS_REGISTRY.get(node.HEAD)(cfg, input_shape)
        _check_head(head)
        upsampling = MultiScaleAdaptiveUpsampling(
            guide_channels=head.predictor.in_channels,
            dilations=node.MSAU.DILATIONS,
            out_stride=node.MSAU.OUT_STRIDE,
        )
        upsampling.demodulate = build_demodulator(cfg)
        return {
            "head": head,
            "strides": {name: shape.stride or 1 for name, shape in input_shape.items()},
            "upsampling": upsampling,
            "demodulator": build_demodulator(cfg),
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Return losses in training, logits of every pixel otherwise, as in Detectron2's heads."""
        guide, mappings = self.decode(features)
        logits = self.head.predictor(guide)
        # The maps may stick out of the image by a part of a pixel; labels and Detectron2's
        # post-processing both cut that off.
        size = self.image_size(features)
        logits = self.upsampling(logits.float(), guide, mappings, size)
        if not self.training:
            return logits, {}
        loss = labeled_cross_entropy(logits, targets, ignore_value=self.ignore_value)
        return None, {"loss_sem_seg": self.loss_weight * loss}

    def decode(self, features: Mapping[str, Tensor]) -> tuple[Tensor, MappingStack]:
        """What the head classifies, (B, width, H, W), and the stages between it and the image."""
        names = list(self.strides)
        if isinstance(self.head, FCNHead):
            return self.head.decode(features), mappings_of(features, names[0])
        if isinstance(self.head, SemSegFPNHead):
            return self._summed(features), MappingStack()
        exits = {
            name: demodulate_in_place_of(
                features[name], mappings_of(features, name), self.demodulator
            )
            for name in names
        }
        return self.head.decode(exits), MappingStack()

    def image_size(self, features: Mapping[str, Tensor]) -> tuple[int, int]:
        """Height and width that the finest map covers, or the first lattice that was resampled."""
        stride, size = self.strides[self.finest], tuple(features[self.finest].shape[-2:])
        for stage in reversed(mappings_of(features, self.finest)):
            stride, size = stride // stage.stride, stage.size
        return size[0] * stride, size[1] * stride

    def _summed(self, features: Mapping[str, Tensor]) -> Tensor:
        """The branches of a ``SemSegFPNHead``, each brought to one lattice of the image."""
        height, width = self.image_size(features)
        stride = self.head.common_stride
        lattice = (-(-height // stride), -(-width // stride))
        branches = zip(self.strides, self.head.scale_heads, strict=True)
        total: Tensor | None = None
        for name, branch in branches:
            maps = branch(features[name])
            maps = self.demodulator(maps, mappings_of(features, name), lattice)
            total = maps if total is None else total + maps
        assert total is not None
        return total


def _check_head(head: nn.Module) -> None:
    if not isinstance(head, FCNHead | SemSegFPNHead | FreqFusionSemSegHead):
        raise ValueError(
            "SFMSemSegHead works with FCNHead, SemSegFPNHead and FreqFusionSemSegHead, whose parts "
            f"it knows; MODEL.SFM.HEAD gave {type(head).__name__}"
        )
