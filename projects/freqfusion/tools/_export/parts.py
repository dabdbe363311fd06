"""What of a model is exported: from images that are normalised and padded to raw outputs.

Shapes: images (B, 3, H, W) are padded to whole blocks of d x d pixels, d being what the model pads
to, and handed on as blocks (B, 3, rows, d, columns, d). So an exporter sees the sizes of all maps
as plain multiples of the numbers of blocks, instead of roundings of the image's size that it cannot
compare with each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Output(NamedTuple):
    """One output of the exported model; ``is_cropped``: at the image's size."""

    name: str
    is_cropped: bool = False


class Part(nn.Module):
    """A part of a model in eval mode.

    Attributes:
        task: What the outputs are for.
        divisor: Images are padded to a multiple of this number of pixels.
        outputs: What :meth:`compute` returns, in its order.
    """

    def __init__(self, model: Any, task: str, divisor: int, outputs: list[Output]):
        super().__init__()
        self.model = model
        self.task, self.divisor, self.outputs = task, max(divisor, 1), outputs

    def forward(self, blocks: Tensor) -> tuple[Tensor, ...]:
        """Outputs for the padded image, from its blocks."""
        return self.compute(blocks.flatten(4, 5).flatten(2, 3))

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Outputs for images that are normalised and padded."""
        raise NotImplementedError

    @torch.no_grad()
    def reference(self, image: Tensor) -> list[Tensor]:
        """What the exported file must give for (B, 3, H, W), computed by the model itself."""
        height, width = image.shape[-2:]
        normalised = (image - self.model.pixel_mean) / self.model.pixel_std
        padded = F.pad(normalised, (0, -width % self.divisor, 0, -height % self.divisor))
        return [
            raw[..., :height, :width] if output.is_cropped else raw
            for output, raw in zip(self.outputs, self.compute(padded), strict=True)
        ]


class SemanticPart(Part):
    """Logits of every class and pixel, of a semantic segmentor or a Panoptic FPN's branch."""

    def __init__(self, model: Any):
        divisor = model.backbone.size_divisibility
        super().__init__(model, "semantic", divisor, [Output("sem_seg", is_cropped=True)])

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits at the size of the padded image."""
        logits, _ = self.model.sem_seg_head(self.model.backbone(images))
        return (logits,)


class ProposalPart(Part):
    """The pyramid of an R-CNN, and what its proposal network says on each level."""

    def __init__(self, model: Any):
        self.levels: list[str] = list(model.backbone.output_shape())
        self.proposed: list[str] = list(model.proposal_generator.in_features)
        names = [
            *self.levels,
            *(f"rpn_logits_{name}" for name in self.proposed),
            *(f"rpn_deltas_{name}" for name in self.proposed),
        ]
        divisor = model.backbone.size_divisibility
        super().__init__(model, "proposals", divisor, [Output(name) for name in names])

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps, logits (B, A, h, w) and deltas (B, 4 * A, h, w) for A anchors per place."""
        maps = self.model.backbone(images)
        logits, deltas = self.model.proposal_generator.rpn_head([maps[n] for n in self.proposed])
        return (*(maps[name] for name in self.levels), *logits, *deltas)


class QueryPart(Part):
    """Classes and masks of Mask2Former's queries, and the semantic scores that they make."""

    def __init__(self, model: Any):
        self.is_semantic = bool(model.semantic_on)
        outputs = [Output("pred_logits"), Output("pred_masks")]
        if self.is_semantic:
            outputs.append(Output("sem_seg", is_cropped=True))
        super().__init__(model, "mask classification", model.size_divisibility, outputs)

    def compute(self, images: Tensor) -> tuple[Tensor, ...]:
        """Class logits (B, Q, K + 1), mask logits at stride 4, and scores (B, K, H, W)."""
        predicted = self.model.sem_seg_head(self.model.backbone(images))
        logits, masks = predicted["pred_logits"], predicted["pred_masks"]
        if not self.is_semantic:
            return logits, masks
        size = (images.shape[-2], images.shape[-1])
        enlarged = F.interpolate(masks, size=size, mode="bilinear").sigmoid().flatten(2)
        classes = logits.softmax(-1)[..., :-1].transpose(1, 2)
        return logits, masks, torch.matmul(classes, enlarged).unflatten(2, size)


def part_of(model: Any) -> Part:
    """The part of a Detectron2 model that is exported.

    Raises:
        ValueError: for models without such a part.
    """
    from detectron2.modeling import GeneralizedRCNN, PanopticFPN, SemanticSegmentor

    from freqfusion.modeling import Mask2Former

    if getattr(model.backbone, "padding_constraints", {}).get("square_size", 0):
        raise ValueError(
            "images that are padded to a square are not exported: set MODEL.FPN.SQUARE_PAD 0"
        )
    if isinstance(model, Mask2Former):
        return QueryPart(model)
    if isinstance(model, SemanticSegmentor | PanopticFPN):
        return SemanticPart(model)
    if isinstance(model, GeneralizedRCNN) and hasattr(model.proposal_generator, "rpn_head"):
        return ProposalPart(model)
    raise ValueError(
        "SemanticSegmentor, PanopticFPN, GeneralizedRCNN with RPN, and Mask2Former are exported; "
        f"MODEL.META_ARCHITECTURE gave {type(model).__name__}"
    )
