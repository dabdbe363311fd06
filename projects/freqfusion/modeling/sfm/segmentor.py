"""Any model, with a loss that teaches the attention of its backbone where semantic edges are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice
from freqfusion.layers.sfm import attention_edge_loss, warp_edge_target
from freqfusion.layers.sfm.supervision import EdgeLoss
from freqfusion.modeling.precision import without_autocast
from freqfusion.modeling.sfm.backbone import NEEDS_A_HEAD, ModulatedBackbone
from freqfusion.modeling.sfm.edges import label_edges
from freqfusion.modeling.sfm.pixel_decoder import SFMPixelDecoder
from freqfusion.modeling.sfm.recording import Modulations, record_modulations
from freqfusion.modeling.sfm.semantic_head import SFMSemSegHead


@META_ARCH_REGISTRY.register()
class SFMSegmentor(nn.Module):
    """The model that ``MODEL.SFM.META_ARCHITECTURE`` names, with one more loss.

    ``SFMSegmentor(cfg)`` gives an object of a class that extends both this one and that of the
    model. So it *is* that model: its state dict has the same keys without a prefix, and whatever
    asks for ``model.backbone`` or for a ``GeneralizedRCNN`` finds it. Inference is the model's own;
    in training ``loss_attention`` comes to its losses. The backbone runs once, and what its
    attention said is handed over for that call only.

    Args:
        cfg: Read by the model itself; here ``EDGE_LOSS_WEIGHT`` and ``EDGE_LOSS`` of ``MODEL.SFM``
            and ``MODEL.SEM_SEG_HEAD.IGNORE_VALUE``.
    """

    def __new__(cls, cfg: CfgNode) -> Any:
        """Return an object of the class for the configuration."""
        return super().__new__(supervised(cfg.MODEL.SFM.META_ARCHITECTURE))

    def __reduce__(self) -> tuple[Any, ...]:
        """Name the model's own class to ``pickle``, since that of the object is in no module."""
        state = self.__getstate__()  # type: ignore[no-untyped-call]
        return _blank, (type(self).__bases__[1],), state

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)  # the model's, next in the order of classes
        node = cfg.MODEL.SFM
        check_choice(EdgeLoss, **{"MODEL.SFM.EDGE_LOSS": node.EDGE_LOSS})
        if node.EDGE_LOSS_WEIGHT < 0:
            raise ValueError(
                f"MODEL.SFM.EDGE_LOSS_WEIGHT must not be negative; got {node.EDGE_LOSS_WEIGHT}"
            )
        if node.ENABLED:
            self._check_parts(cfg)
        self.edge_loss_weight: float = node.EDGE_LOSS_WEIGHT
        self.edge_loss: EdgeLoss = node.EDGE_LOSS
        self.edge_ignore_value: int = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE

    def _check_parts(self, cfg: CfgNode) -> None:
        parts, node = list(self.modules()), cfg.MODEL.SFM
        if not any(isinstance(part, ModulatedBackbone) for part in parts):
            raise ValueError(
                f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} has no attention to supervise: take"
                " build_sfm_backbone, with the backbone's name in MODEL.SFM.BACKBONE, or set"
                f" MODEL.META_ARCHITECTURE {node.META_ARCHITECTURE}"
            )
        heads = (SFMSemSegHead, SFMPixelDecoder)
        if node.DEMODULATE == "head" and not any(isinstance(part, heads) for part in parts):
            raise ValueError(NEEDS_A_HEAD)

    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> Any:
        """What the model gives; in training with ``loss_attention``, if it has a weight."""
        if not self.training or not self.edge_loss_weight:
            return super().forward(batched_inputs)
        with record_modulations() as records:
            losses: dict[str, Tensor] = super().forward(batched_inputs)
        attention = [self.attention_loss(batched_inputs, seen) for seen in records if seen.logits]
        if not attention:
            return losses
        return losses | {"loss_attention": self.edge_loss_weight * torch.stack(attention).mean()}

    def attention_loss(
        self, batched_inputs: Sequence[Mapping[str, Any]], seen: Modulations
    ) -> Tensor:
        """Mean over the stages of how far their attention is from the edges of the labels.

        Each attention map lies in the space that the stages before it lead to, so the edges are
        brought there.
        """
        logits = next(iter(seen.logits.values()))
        with without_autocast(logits.device):
            edges = label_edges(
                batched_inputs,
                self._covered(seen),
                logits.device,
                ignore_value=self.edge_ignore_value,
            )
            losses = [
                attention_edge_loss(
                    found,
                    warp_edge_target(
                        edges, (found.shape[-2], found.shape[-1]), seen.mappings[name]
                    ),
                    kind=self.edge_loss,
                )
                for name, found in seen.logits.items()
            ]
        return torch.stack(losses).mean()

    def _covered(self, seen: Modulations) -> tuple[int, int]:
        """Height and width of the padded image that the finest attention map covers."""
        strides = {
            point.feature: point.stride
            for part in self.modules()
            if isinstance(part, ModulatedBackbone)
            for point in part.points
        }
        name = min(seen.logits, key=lambda name: strides[name])
        height, width = seen.logits[name].shape[-2:]
        return height * strides[name], width * strides[name]


@cache
def supervised(architecture: str) -> type[SFMSegmentor]:
    """The class of models of a registered ``architecture`` with supervision of their attention."""
    known = [name for name, _ in META_ARCH_REGISTRY if name != SFMSegmentor.__name__]
    if architecture not in known:
        raise ValueError(
            f"MODEL.SFM.META_ARCHITECTURE must be one of {', '.join(known)}; got {architecture!r}"
        )
    bases = (SFMSegmentor, META_ARCH_REGISTRY.get(architecture))
    return type(f"SFM{architecture}", bases, {})


def _blank(model_class: type[nn.Module]) -> SFMSegmentor:
    """Return an object of the supervised class to be filled with what was copied or pickled."""
    return object.__new__(supervised(model_class.__name__))
