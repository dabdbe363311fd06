"""Which predicted objects and segments are which true ones, and what kind of error a pixel is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from freqfusion.drawing.content import Instance, IntMap, LabelMap, Mask, PanopticMap
from freqfusion.metrics import boundary_width, interior
from freqfusion.metrics.panoptic_quality import match_segments
from freqfusion.metrics.panoptic_segments import count_overlaps, read_segments

Kinds = Mapping[str, Mask]


@dataclass(frozen=True)
class InstanceMatches:
    """Indices of matched pairs (prediction, ground truth), spurious predictions, missed objects.

    ``excused`` predictions lie on a crowd of their class and are neither right nor wrong.
    """

    matched: tuple[tuple[int, int], ...]
    spurious: tuple[int, ...]
    missed: tuple[int, ...]
    excused: tuple[int, ...]


def semantic_kinds(prediction: LabelMap, gt: LabelMap) -> Kinds:
    """Return wrong pixels: ``boundary``, within 2 % of the diagonal of a contour, and ``inside``.

    Also ``void``: the ground truth says nothing. All other pixels are right.
    """
    _check_sizes(prediction.labels, gt.labels)
    void = gt.labels < 0
    wrong = (prediction.labels != gt.labels) & ~void
    near = near_contours(gt.labels, boundary_width(gt.labels.shape))
    return {"boundary": wrong & near, "inside": wrong & ~near, "void": void}


def near_contours(values: IntMap, distance: int) -> Mask:
    """Return pixels with another value within ``distance`` along rows, columns or diagonals.

    That is in a square of side 2 distance + 1, cut where the map ends.
    """
    # Repeating the edge adds nothing to a window that the map's end cuts.
    inner = interior(np.pad(values, distance, mode="edge"), distance)
    return ~inner[distance:-distance, distance:-distance]


def panoptic_kinds(prediction: PanopticMap, gt: PanopticMap) -> Kinds:
    """Return how each pixel fares in panoptic quality; the masks part the map.

    ``void``: the ground truth is void or a crowd, or an unmatched prediction there is excused.
    ``matched``: its true and its predicted segment match. Of the others, by whether the true
    segment was found and the predicted one belongs to any: ``border`` (both: only the line between
    them is off), ``missed`` (not found), ``spurious`` (belongs to none), ``wrong`` (neither:
    something is predicted here, but of another class or of too different a shape).
    """
    _check_sizes(prediction.ids, gt.ids)
    categories = sorted({one.category for one in (*prediction.segments, *gt.segments)})
    index = {category: at for at, category in enumerate(categories)}
    guess, real = (
        read_segments(side, segment_infos(content), index)
        for side, content in (("prediction", prediction), ("ground truth", gt))
    )
    overlaps = count_overlaps(prediction.ids, guess, gt.ids, real)
    found = match_segments(guess, real, overlaps, overlaps.truth_area.astype(np.float64))
    partner = np.full(len(real.ids), -1)
    partner[overlaps.truth[found.pairs]] = overlaps.prediction[found.pairs]
    at_truth = real.find(gt.ids.astype(np.int64).ravel()).reshape(gt.ids.shape)
    at_guess = guess.find(prediction.ids.astype(np.int64).ravel()).reshape(gt.ids.shape)
    void = (at_truth == 0) | real.crowd[at_truth]
    matched = (partner[at_truth] == at_guess) & ~void
    rest = ~void & ~matched
    missed, spurious = found.missed[at_truth], found.wrong[at_guess]
    return {
        "matched": matched,
        "border": rest & ~missed & ~spurious,
        "wrong": rest & missed & spurious,
        "missed": rest & missed & ~spurious,
        "spurious": rest & spurious & ~missed,
        "void": void,
    }


def match_instances(
    predictions: Sequence[Instance], gts: Sequence[Instance], *, threshold: float = 0.5
) -> InstanceMatches:
    """Return pairs of a class whose mask IoU, or box IoU without masks, is ``threshold`` or more.

    The prediction with the highest score takes first, and takes the best ground truth that is left.
    """
    matched: list[tuple[int, int]] = []
    spurious: list[int] = []
    excused: list[int] = []
    free = {at for at, gt in enumerate(gts) if not gt.is_crowd}
    crowds = [at for at, gt in enumerate(gts) if gt.is_crowd]
    order = sorted(range(len(predictions)), key=lambda at: -(predictions[at].score or 0))
    for at in order:
        guess = predictions[at]
        ious = {
            other: overlap(guess, gts[other])[0]
            for other in sorted(free)
            if gts[other].category == guess.category
        }
        best = max(ious, key=lambda other: ious[other], default=None)
        if best is not None and ious[best] >= threshold:
            matched.append((at, best))
            free.remove(best)
        elif any(
            gts[crowd].category == guess.category and overlap(guess, gts[crowd])[1] > 0.5
            for crowd in crowds
        ):
            excused.append(at)
        else:
            spurious.append(at)
    return InstanceMatches(tuple(matched), tuple(spurious), tuple(sorted(free)), tuple(excused))


def overlap(first: Instance, second: Instance) -> tuple[float, float]:
    """Return the IoU, and the part of the first in the second, by masks where both have one."""
    if first.mask is not None and second.mask is not None:
        _check_sizes(first.mask, second.mask)
        common = float(np.count_nonzero(first.mask & second.mask))
    else:
        a, b = first.extent(), second.extent()
        if a is None or b is None:
            return 0.0, 0.0
        first, second = (Instance(0, "", box=box) for box in (a, b))
        wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        common = wide * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = first.area() + second.area() - common
    own = first.area()
    return (common / union if union else 0.0), (common / own if own else 0.0)


def segment_infos(content: PanopticMap) -> list[dict[str, Any]]:
    """Return the segments as Detectron2's ``segments_info``."""
    return [
        {"id": one.id, "category_id": one.category, "iscrowd": one.is_crowd}
        for one in content.segments
    ]


def _check_sizes(prediction: Any, gt: Any) -> None:
    if prediction.shape != gt.shape:
        raise ValueError(
            f"prediction {prediction.shape} and ground truth {gt.shape} differ in size; a model's"
            " output must have the image's height and width"
        )
