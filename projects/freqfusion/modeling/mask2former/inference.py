"""From the classes and masks of the queries to semantic, panoptic and instance segmentation.

Functions for one image. Q queries, K classes; ``mask_cls`` (Q, K + 1) and ``mask_pred`` (Q, H, W)
are logits, the last class is "no object". Everything is computed in float32 (float64 for such
input), a few rows of the image or a few masks at a time: probabilities of all masks at the size of
a large image are never held at once. Cheng, Schwing, Kirillov: Per-Pixel Classification is Not All
You Need for Semantic Segmentation, NeurIPS 2021, section 3.4.
"""

from collections.abc import Collection, Iterator
from typing import Literal, TypedDict

import torch
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_positive
from freqfusion.modeling.mask2former.structures import at_least_float32, without_autocast

InstanceBoxes = Literal["zeros", "masks"]

_CHUNK_ELEMENTS = 1 << 23


class SegmentInfo(TypedDict):
    """One segment of a panoptic map, as Detectron2 describes it."""

    id: int
    isthing: bool
    category_id: int


@torch.no_grad()
def semantic_inference(mask_cls: Tensor, mask_pred: Tensor) -> Tensor:
    """Score (K, H, W) of each class at each pixel: the queries vote for their classes.

    The sum over queries of class probability times mask probability; "no object" has no say. The
    scores of a pixel need not add up to one.
    """
    _check_predictions(mask_cls, mask_pred)
    classes = at_least_float32(mask_cls).softmax(dim=-1)[:, :-1].T
    height, width = mask_pred.shape[-2:]
    dtype = torch.promote_types(classes.dtype, at_least_float32(mask_pred[:0]).dtype)
    scores = torch.empty(len(classes), height, width, dtype=dtype, device=mask_pred.device)
    with without_autocast(mask_pred.device):
        for rows in _row_chunks(max(mask_pred.shape[0], len(classes)), height, width):
            masks = at_least_float32(mask_pred[:, rows]).sigmoid().flatten(1)
            scores[:, rows] = (classes.to(dtype) @ masks.to(dtype)).unflatten(1, (-1, width))
    return scores


@torch.no_grad()
def panoptic_inference(
    mask_cls: Tensor,
    mask_pred: Tensor,
    *,
    thing_ids: Collection[int],
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[SegmentInfo]]:
    """Return segments that do not overlap.

    Queries compete for pixels with class score times mask probability. A query keeps the pixels
    that it wins and that lie inside its mask; it is dropped where others won too much of its mask.

    Args:
        mask_cls: (Q, K + 1), logits.
        mask_pred: (Q, H, W), logits.
        thing_ids: Classes whose objects are segments of their own. Those of another class are one
            segment together.
        object_mask_threshold: A query takes part if its class is one and its score is above this.
        overlap_threshold: Smallest part of its own mask that a query must win.

    Returns:
        Segment ids (H, W) in int32, from 1 in the order of the queries, 0 where there is no
        segment; and a description of each.
    """
    _check_predictions(mask_cls, mask_pred)
    scores, labels = at_least_float32(mask_cls).softmax(dim=-1).max(dim=-1)
    kept = ((labels != mask_cls.shape[-1] - 1) & (scores > object_mask_threshold)).nonzero()[:, 0]
    size = (mask_pred.shape[-2], mask_pred.shape[-1])
    if not len(kept) or not mask_pred[0].numel():
        return torch.zeros(size, dtype=torch.int32, device=mask_pred.device), []
    winners, areas = _compete(mask_pred, kept, scores[kept])
    ids, segments = _number_segments(
        labels[kept].tolist(), areas.tolist(), set(thing_ids), overlap_threshold
    )
    # The table's last entry is for pixels that nobody owns.
    table = torch.tensor([*ids, 0], dtype=torch.int32, device=mask_pred.device)
    return table[winners], segments


def _compete(mask_pred: Tensor, kept: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of N kept queries owns each pixel.

    Returns:
        The owner (H, W), N where there is none, and the areas (3, N) of the pixels that a query
        wins, of its mask, and of their intersection.
    """
    count, (height, width) = len(kept), mask_pred.shape[-2:]
    owners = torch.empty(height, width, dtype=torch.long, device=mask_pred.device)
    areas = torch.zeros(3, count, dtype=torch.long, device=mask_pred.device)
    for rows in _row_chunks(count, height, width):
        masks = at_least_float32(mask_pred[:, rows][kept]).sigmoid()
        won = (scores.to(masks)[:, None, None] * masks).argmax(dim=0)
        inside = masks >= 0.5
        owned = inside.gather(0, won[None])[0]
        areas[0] += torch.bincount(won.flatten(), minlength=count)
        areas[1] += inside.flatten(1).sum(dim=1)
        areas[2] += torch.bincount(won[owned], minlength=count)
        owners[rows] = won.where(owned, count)
    return owners, areas


def _number_segments(
    labels: list[int], areas: list[list[int]], things: set[int], overlap_threshold: float
) -> tuple[list[int], list[SegmentInfo]]:
    """Return the segment id of each query, 0 where it has none, and the segments."""
    ids: list[int] = []
    segments: list[SegmentInfo] = []
    stuff: dict[int, int] = {}
    for label, won, whole, owned in zip(labels, *areas, strict=True):
        if not (won and whole and owned) or won / whole < overlap_threshold:
            ids.append(0)
        elif label in stuff:
            ids.append(stuff[label])
        else:
            ids.append(len(segments) + 1)
            thing = label in things
            segments.append({"id": ids[-1], "isthing": thing, "category_id": label})
            if not thing:
                stuff[label] = ids[-1]
    return ids, segments


@torch.no_grad()
def instance_inference(
    mask_cls: Tensor,
    mask_pred: Tensor,
    *,
    topk: int,
    thing_ids: Collection[int] | None = None,
    boxes: InstanceBoxes = "zeros",
) -> Instances:
    """Return objects with scores; they may overlap, and one query may have several classes.

    Args:
        mask_cls: (Q, K + 1), logits.
        mask_pred: (Q, H, W), logits.
        topk: So many pairs of query and class with the highest probabilities are taken (all, if
            there are fewer).
        thing_ids: Of these, keep pairs of such classes only, as panoptic models do. All by default.
        boxes: ``"zeros"``, as published models give, or ``"masks"``: the boxes around the masks.

    Returns:
        Detectron2's ``Instances`` with ``pred_masks`` (N, H, W) boolean, ``pred_boxes``,
        ``scores`` and ``pred_classes``, the highest score first. A score is the probability of the
        class times the mean mask probability inside the mask.
    """
    _check_predictions(mask_cls, mask_pred)
    check_positive(topk=topk)
    check_choice(InstanceBoxes, boxes=boxes)
    num_classes = mask_cls.shape[-1] - 1
    flat = at_least_float32(mask_cls).softmax(dim=-1)[:, :-1].flatten()
    scores, pairs = flat.topk(min(topk, len(flat)))
    queries, classes = pairs // num_classes, pairs % num_classes
    if thing_ids is not None:
        things = torch.tensor(sorted(thing_ids), dtype=torch.long, device=classes.device)
        of_things = torch.isin(classes, things)
        scores, queries, classes = scores[of_things], queries[of_things], classes[of_things]
    used, positions = queries.unique(return_inverse=True)
    scores, order = (scores * _mask_quality(mask_pred, used)[positions]).sort(
        descending=True, stable=True
    )
    result = Instances((mask_pred.shape[-2], mask_pred.shape[-1]))
    result.pred_masks = (mask_pred > 0)[queries[order]]
    if boxes == "masks":
        result.pred_boxes = BitMasks(result.pred_masks).get_bounding_boxes().to(scores.device)
    else:
        result.pred_boxes = Boxes(scores.new_zeros(len(order), 4))
    result.scores, result.pred_classes = scores, classes[order]
    return result


def _mask_quality(mask_pred: Tensor, queries: Tensor) -> Tensor:
    """Return the mean probability (N,) inside the masks of queries (N,); 0 for an empty one."""
    quality = []
    height, width = mask_pred.shape[-2:]
    for chunk in queries.split(max(1, _CHUNK_ELEMENTS // max(1, height * width))):
        masks = at_least_float32(mask_pred[chunk]).flatten(1)
        inside = masks > 0
        total = (masks.sigmoid() * inside).sum(dim=1)
        quality.append(total / (inside.sum(dim=1) + 1e-6))
    return torch.cat(quality)


def _row_chunks(maps: int, height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows in which so many maps have a bounded number of elements."""
    step = max(1, _CHUNK_ELEMENTS // max(1, maps * width))
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _check_predictions(mask_cls: Tensor, mask_pred: Tensor) -> None:
    if (
        mask_cls.dim() != 2
        or mask_pred.dim() != 3
        or len(mask_cls) != len(mask_pred)
        or mask_cls.shape[1] < 2
    ):
        raise ValueError(
            "mask_cls must be (queries, classes + 1) and mask_pred (queries, height, width) for "
            f"one image; got {tuple(mask_cls.shape)} and {tuple(mask_pred.shape)}"
        )
