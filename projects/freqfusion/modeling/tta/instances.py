"""Instances of several views, merged to those of the image."""

from __future__ import annotations

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from freqfusion.modeling.tta.clusters import find_clusters
from freqfusion.modeling.tta.regions import Region, cut_regions, overlap, weighted_majority

_NEEDED = {"pred_boxes", "scores", "pred_classes"}
# Weight of an instance whose score is zero: its mask counts where nothing else does.
_SMALLEST = 1e-6


class InstancePool:
    """Takes the instances of the views one by one; ``result`` merges them.

    Instances of one class whose masks overlap, or boxes where there are no masks, are one object,
    at most one from each view. Of an object,

    * the score is the mean over all views. A view that did not see it counts 0: what one view of
      ten finds is a tenth as sure as what all of them find;
    * the mask is what instances with more than half of the sum of its scores agree on. Views
      without the object have no say in its shape;
    * the box is the mean, weighted by the scores. Boxes without an area, which published
      Mask2Former models give, stay as they are.

    Args:
        min_overlap: Two instances with a larger IoU can be one object.
        topk: At most so many objects, the best ones; None for all.
    """

    def __init__(self, *, min_overlap: float, topk: int | None) -> None:
        self._min_overlap, self._topk = min_overlap, topk
        self._first: Instances | None = None
        self._views = 0
        self._owners: list[int] = []
        self._labels: list[int] = []
        self._scores: list[float] = []
        self._regions: list[Region] = []
        self._boxes: list[Tensor] = []

    def add(self, instances: Instances, *, flipped: bool) -> None:
        """Count one view; its masks are copied to the CPU without their empty surroundings."""
        _check_fields(instances, self._first)
        if self._first is None:
            self._first = _emptied(instances)
        boxes = instances.pred_boxes.tensor
        self._boxes.append(_flip_boxes(boxes, instances.image_size[1]) if flipped else boxes)
        if instances.has("pred_masks"):
            regions = cut_regions(instances.pred_masks.bool())
            width = instances.image_size[1]
            self._regions += [r.mirrored(width) for r in regions] if flipped else regions
        self._owners += [self._views] * len(instances)
        self._labels += instances.pred_classes.tolist()
        self._scores += instances.scores.tolist()
        self._views += 1

    def result(self) -> Instances:
        """The objects in falling order of their scores, with the fields of the first view."""
        first = self._first
        if first is None:
            raise RuntimeError("no view was added")
        boxes = torch.cat(self._boxes)
        clusters = self._clusters(boxes)
        means = [sum(self._scores[item] for item in cluster) / self._views for cluster in clusters]
        order = sorted(range(len(clusters)), key=lambda number: -means[number])[: self._topk]
        kept = [clusters[number] for number in order]
        result = Instances(first.image_size)
        for name in first.get_fields():
            if name == "scores":
                value: Tensor | Boxes = first.scores.new_tensor([means[n] for n in order])
            elif name == "pred_classes":
                value = first.pred_classes.new_tensor([self._labels[c[0]] for c in kept])
            elif name == "pred_boxes":
                value = Boxes(self._mean_boxes(boxes, kept))
            else:
                value = self._masks(kept, first.image_size).to(first.pred_masks)
            result.set(name, value)
        return result

    def _clusters(self, boxes: Tensor) -> list[list[int]]:
        if self._regions:

            def measure(one: int, other: int) -> float:
                return overlap(self._regions[one], self._regions[other])
        else:
            table = pairwise_iou(Boxes(boxes), Boxes(boxes)).cpu().numpy()

            def measure(one: int, other: int) -> float:
                return float(table[one, other])

        return find_clusters(
            self._owners, self._labels, self._scores, measure, min_overlap=self._min_overlap
        )

    def _weights(self, cluster: list[int]) -> list[float]:
        return [max(self._scores[item], _SMALLEST) for item in cluster]

    def _mean_boxes(self, boxes: Tensor, clusters: list[list[int]]) -> Tensor:
        means = boxes.new_zeros(len(clusters), 4)
        for number, cluster in enumerate(clusters):
            weights = boxes.new_tensor(self._weights(cluster))[:, None]
            means[number] = (weights * boxes[cluster]).sum(dim=0) / weights.sum()
        return means

    def _masks(self, clusters: list[list[int]], size: tuple[int, int]) -> Tensor:
        masks = torch.zeros(len(clusters), *size, dtype=torch.bool)
        for mask, cluster in zip(masks, clusters, strict=True):
            members = [self._regions[item] for item in cluster]
            region = weighted_majority(members, self._weights(cluster))
            mask[region.top : region.bottom, region.left : region.right] = region.pixels
        return masks


def _emptied(instances: Instances) -> Instances:
    """The same fields for no object; in memory of their own, so that the masks can go."""
    fields = instances.get_fields().items()
    return Instances(instances.image_size, **{name: value[:0].clone() for name, value in fields})


def _flip_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes (N, 4) as x0, y0, x1, y1 in the mirrored image; those without an area stay."""
    flipped = boxes.clone()
    flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return flipped.where(Boxes(boxes).nonempty()[:, None], boxes)


def _check_fields(instances: Instances, first: Instances | None) -> None:
    fields = set(instances.get_fields())
    strange = sorted(fields - _NEEDED - {"pred_masks"})
    missing = sorted(_NEEDED - fields)
    if strange or missing:
        wrong = f"also {', '.join(strange)}" if strange else f"no {', '.join(missing)}"
        raise ValueError(
            "test-time augmentation merges instances with pred_boxes, scores, pred_classes and"
            f" maybe pred_masks; the model gives {wrong}: set TEST.AUG.ENABLED False"
        )
    if instances.pred_boxes.tensor.shape[1] != 4:
        raise ValueError(
            "test-time augmentation merges upright boxes; the model gives"
            f" {type(instances.pred_boxes).__name__}: set TEST.AUG.ENABLED False"
        )
    if first is not None and set(first.get_fields()) != fields:
        raise RuntimeError(
            f"the instances of one view have {', '.join(sorted(first.get_fields()))}, those of"
            f" another {', '.join(sorted(fields))}; a model must give the same for all"
        )
