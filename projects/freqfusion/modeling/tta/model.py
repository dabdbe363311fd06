"""A model that looks at each image several times."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion.layers.checks import check_choice
from freqfusion.modeling.mask2former import Mask2Former
from freqfusion.modeling.tta.instances import InstancePool
from freqfusion.modeling.tta.panoptic import PanopticVotes
from freqfusion.modeling.tta.semantic import SemanticMean, SemanticScores
from freqfusion.modeling.tta.views import source_picture, view_sizes, views

logger = logging.getLogger(__name__)

Merger = SemanticMean | InstancePool | PanopticVotes


class TestTimeAugmentation(nn.Module):
    """A model in evaluation, called like it, whose results are merged from several views.

    Each image is shown in several sizes, and each size also mirrored, one view at a time. What the
    model gives (``sem_seg``, ``instances``, ``panoptic_seg``) is turned back and merged; see
    ``SemanticMean``, ``InstancePool`` and ``PanopticVotes`` for how. The ``sem_seg`` of several
    views is a mean of probabilities where the model gives logits. Where there is one view only, the
    result is the model's own.

    Views are resized by the rule of Detectron2's ``ResizeShortestEdge``, from the file that
    ``file_name`` names where that is the picture in ``image``, otherwise from ``image``; see
    ``source_picture``.

    Args:
        model: Gives a list of dicts for a list of dicts with ``image``; taken out of
            ``DistributedDataParallel``, since processes can have different numbers of views.
        min_sizes: Lengths of the shorter side, one for each size.
        max_size: The longer side is at most this long.
        flip: Look at the mirrored image too.
        image_format: Order of the channels of ``image``, "BGR" or "RGB": INPUT.FORMAT.
        semantic: What ``sem_seg`` holds, "logits" or "scores"; see ``SemanticMean``.
        min_overlap: Objects of different views with a larger IoU can be one, 0 to 1.
        topk: At most so many instances of an image; None for all.
    """

    # The name begins like those of test classes, and pytest would collect it.
    __test__ = False

    def __init__(
        self,
        model: nn.Module,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        flip: bool = True,
        image_format: str = "BGR",
        semantic: SemanticScores = "logits",
        min_overlap: float = 0.5,
        topk: int | None = 100,
    ) -> None:
        super().__init__()
        check_choice(SemanticScores, semantic=semantic)
        _check_arguments(min_sizes, max_size, min_overlap, topk)
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.min_sizes, self.max_size, self.flip = tuple(min_sizes), max_size, flip
        self.image_format, self.semantic = image_format, semantic
        self.min_overlap, self.topk = min_overlap, topk
        self._told = False
        # Otherwise whoever puts the wrapper back into its mode would change that of the model.
        self.training = self.model.training

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A dict of results for each image; see the class."""
        if self.training:
            raise RuntimeError(
                "test-time augmentation is for predictions only: call eval() first, and train the"
                " model inside it (.model)"
            )
        return [self._results(given) for given in batched_inputs]

    def _results(self, given: Mapping[str, Any]) -> dict[str, Any]:
        _check_input(given)
        picture, reason = source_picture(given, image_format=self.image_format)
        if reason and not self._told:
            self._told = True
            logger.warning("%s: views are made from the resized image (said once)", reason)
        height, width = picture.shape[:2]
        sizes = view_sizes(height, width, min_sizes=self.min_sizes, max_size=self.max_size)
        mergers: dict[str, Merger] = {}
        for inputs, flipped in views(given, picture, sizes, flip=self.flip):
            output: dict[str, Any] = self.model([inputs])[0]
            if len(sizes) == 1 and not self.flip:
                return output
            if not mergers:
                mergers = {name: self._merger(name) for name in output}
            if output.keys() != mergers.keys():
                raise RuntimeError(
                    f"the model gives {', '.join(output)} for one view and {', '.join(mergers)} for"
                    " another; it must give the same for all"
                )
            for name, merger in mergers.items():
                merger.add(output[name], flipped=flipped)
        return {name: merger.result() for name, merger in mergers.items()}

    def _merger(self, name: str) -> Merger:
        if name == "sem_seg":
            return SemanticMean(self.semantic)
        if name == "instances":
            return InstancePool(min_overlap=self.min_overlap, topk=self.topk)
        if name == "panoptic_seg":
            return PanopticVotes(min_overlap=self.min_overlap)
        raise ValueError(
            "test-time augmentation merges sem_seg, instances and panoptic_seg; the model gives"
            f" {name}: set TEST.AUG.ENABLED False"
        )


def with_augmentation(cfg: CfgNode, model: nn.Module) -> TestTimeAugmentation:
    """The model as ``TEST.AUG`` says; instances are limited by ``TEST.DETECTIONS_PER_IMAGE``.

    What its ``sem_seg`` holds, ``semantic_kind`` says.
    """
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    return TestTimeAugmentation(
        model,
        min_sizes=cfg.TEST.AUG.MIN_SIZES,
        max_size=cfg.TEST.AUG.MAX_SIZE,
        flip=cfg.TEST.AUG.FLIP,
        image_format=cfg.INPUT.FORMAT,
        semantic=semantic_kind(model),
        topk=None if limit < 0 else limit,
    )


def semantic_kind(model: nn.Module) -> SemanticScores:
    """What the ``sem_seg`` of a model holds.

    Logits, as with all of Detectron2's models, but where a ``Mask2Former`` gives it.
    """
    scoring = any(isinstance(module, Mask2Former) for module in model.modules())
    return "scores" if scoring else "logits"


def _check_arguments(
    min_sizes: Sequence[int], max_size: int, min_overlap: float, topk: int | None
) -> None:
    if not min_sizes or min(min_sizes) < 1:
        raise ValueError(
            "min_sizes (TEST.AUG.MIN_SIZES) needs at least one length, each at least 1 pixel; got"
            f" {list(min_sizes)}"
        )
    if max_size < 1:
        raise ValueError(f"max_size (TEST.AUG.MAX_SIZE) must be at least 1; got {max_size}")
    if not 0 <= min_overlap < 1:
        raise ValueError(f"min_overlap must be from 0 to below 1; got {min_overlap}")
    if topk is not None and topk < 1:
        raise ValueError(f"topk must be at least 1, or None for all; got {topk}")


def _check_input(given: Mapping[str, Any]) -> None:
    if "image" not in given:
        raise ValueError(
            f"each input needs image, a tensor (channels, height, width); got {', '.join(given)}"
        )
    if "proposals" in given:
        raise ValueError(
            "test-time augmentation cannot turn precomputed proposals: set TEST.AUG.ENABLED or"
            " MODEL.LOAD_PROPOSALS False"
        )
