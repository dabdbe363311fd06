"""Any model, with a loss that teaches the attention of its backbone where semantic edges are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice
from freqfusion.layers.sfm import attention_edge_loss, semantic_edge_target, warp_edge_target
from freqfusion.layers.sfm.supervision import EdgeLoss
from freqfusion.modeling.mask2former.structures import image_targets, without_autocast
from freqfusion.modeling.sfm.backbone import NEEDS_A_HEAD, ModulatedBackbone
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
    attention predicts is recorded for that call only.

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
        """Return the mean over stages of how far their attention is from the edges of the labels.

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
        """Return height and width of the padded image that the finest attention map covers."""
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
    """Return the class of models of a registered ``architecture`` with supervised attention."""
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


# In the label maps that are made here; ids and classes are not negative.
_IGNORED = -1


def label_edges(
    images: Iterable[Mapping[str, Any]],
    size: tuple[int, int],
    device: torch.device,
    *,
    ignore_value: int,
) -> Tensor:
    """Return edges (B, 1, height, width) of a batch of images, padded to ``size`` (height, width).

    An edge of any of the mapper's targets is one: of ``sem_seg``, of the segments of ``pan_seg``
    (crowds and what has no segment are ignored), of the masks of ``instances``. Neither ignored nor
    padded pixels make edges.
    """
    return torch.cat([_edges(image, size, device, ignore_value) for image in images])


def ignored_pixels(
    images: Iterable[Mapping[str, Any]],
    size: tuple[int, int],
    device: torch.device,
    *,
    ignore_value: int,
) -> Tensor:
    """Return 1 where :func:`label_edges` knows nothing: all targets ignore the pixel, or padding.

    (B, 1, height, width), float32; 0 elsewhere.
    """
    return torch.cat(
        [
            torch.stack(
                [
                    _padded(labels, size).to(device) == _IGNORED
                    for labels in label_maps(image, ignore_value)
                ]
            ).all(dim=0)
            for image in images
        ]
    )[:, None].float()


def _edges(
    image: Mapping[str, Any], size: tuple[int, int], device: torch.device, ignore_value: int
) -> Tensor:
    edges = [
        semantic_edge_target(_padded(labels, size).to(device), ignore_index=_IGNORED)
        for labels in label_maps(image, ignore_value)
    ]
    if not edges:
        raise ValueError(
            f"{image.get('file_name', 'an image')} has no sem_seg, pan_seg or instances whose edges"
            " could teach the attention: set INPUT.TARGETS to one that the data set has, or"
            " MODEL.SFM.EDGE_LOSS_WEIGHT 0"
        )
    return torch.stack(edges).amax(dim=0)


def label_maps(image: Mapping[str, Any], ignore_value: int) -> Iterator[Tensor]:
    """Yield a map (H, W) of ids for each target of an image, -1 where a pixel is ignored."""
    if "sem_seg" in image:
        labels = image["sem_seg"]
        yield labels.masked_fill(labels == ignore_value, _IGNORED)
    if "pan_seg" in image:
        ids = image["pan_seg"]
        known = [part["id"] for part in image["segments_info"] if not part.get("iscrowd", 0)]
        wanted = torch.tensor(known, dtype=ids.dtype, device=ids.device)
        yield ids.masked_fill(~torch.isin(ids, wanted), _IGNORED)
    if "instances" in image:
        yield _painted(image_targets({"instances": image["instances"]}, ignore_value)["masks"])


def _painted(masks: Tensor) -> Tensor:
    """Paint masks (N, H, W) over each other, the smallest on top: 0 for none, else 1 to N."""
    canvas = torch.zeros(masks.shape[-2:], dtype=torch.long, device=masks.device)
    order = masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True)
    for number, index in enumerate(order.tolist(), start=1):
        canvas[masks[index]] = number
    return canvas


def _padded(labels: Tensor, size: tuple[int, int]) -> Tensor:
    below, right = size[0] - labels.shape[-2], size[1] - labels.shape[-1]
    return F.pad(labels[None], (0, right, 0, below), value=_IGNORED)
