"""Cityscapes' average precision of instance masks.

After M. Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
with the numbers of the benchmark's own evaluation (cityscapesscripts). A predicted mask and a true
segment of its class match where their IoU is above a threshold, 0.5, 0.55, ... 0.95; true segments
do not overlap, so a mask has one match at most.

* True segments of fewer than 100 pixels and groups (bare label ids) are neither found nor missed,
  and a mask that matches one is left out.
* Of several masks that match one segment, that of the highest score is right and the others are
  false positives.
* A mask without a match is a false positive unless a larger part of it than the threshold lies on
  what is ignored: void, and small segments and groups of its class. A small group counts twice.
* Precision and recall are taken at each score and where nothing is predicted (recall 0, precision
  1); the average precision is the area under the straight lines between them.
* A class without a true segment that counts is nan, and left out of the means.

One thing differs: where every mask of a class is left out, the average precision is 0 here; the
original ends with an IndexError.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.metrics.cityscapes_labels import (
    INSTANCE_LABELS,
    NUM_IDS,
    TRAIN_ID_OF_ID,
    MapSegments,
    read_segments_of_map,
)
from freqfusion.metrics.confusion import LabelArray, mean_of_present

FloatArray = NDArray[np.float64]

# Computed as the benchmark does it, so with the same last digits.
THRESHOLDS: FloatArray = np.arange(0.5, 1.0, 0.05)
SMALLEST = 100
_INSTANCE_IDS = np.array([label.id for label in INSTANCE_LABELS])
_RECORD = np.dtype(
    [
        ("label", np.int64),
        ("score", np.float64),
        ("iou", np.float64),  # with the best segment of its class
        ("segment", np.int64),  # number of that segment; -1 for one that does not count
        ("ignored", np.float64),  # part of its pixels
    ]
)


@dataclass(frozen=True)
class CityscapesInstanceResult:
    """Average precision by class name, 0..1, nan for a class that does not occur.

    ``ap`` is the mean over all thresholds, ``ap50`` that of the threshold 0.5.
    """

    ap: dict[str, float]
    ap50: dict[str, float]

    def means(self) -> dict[str, float]:
        """Return ``AP`` and ``AP50``: means over the classes that occur; nan where none does."""
        return {
            "AP": mean_of_present(np.array([*self.ap.values()])),
            "AP50": mean_of_present(np.array([*self.ap50.values()])),
        }


class CityscapesInstances:
    """What each predicted mask of a data set found; a few numbers for each, and no mask."""

    def __init__(self) -> None:
        self.truths: NDArray[np.int64] = np.zeros(NUM_IDS, dtype=np.int64)
        self._records: list[NDArray[np.void]] = []

    def update(
        self,
        masks: Iterable[NDArray[Any]],
        labels: Sequence[int],
        scores: Sequence[float],
        instance_ids: LabelArray,
    ) -> None:
        """Count one image: height x width masks (what is not 0 belongs to them), label ids, scores.

        ``instance_ids`` is the truth. Empty masks, and those of labels without evaluated instances,
        are left out. After a ValueError nothing is counted.
        """
        truth = read_segments_of_map(instance_ids)
        counts = ~truth.bare & (truth.sizes >= SMALLEST) & np.isin(truth.labels, _INSTANCE_IDS)
        number = np.where(counts, int(self.truths.sum()) + np.cumsum(counts) - 1, -1)
        records = [
            _compare(mask, label, score, truth, number)
            for mask, label, score in zip(masks, labels, scores, strict=True)
            if _is_evaluated(label)
        ]
        found = [record for record in records if record is not None]
        self._records.append(np.array(found, dtype=_RECORD))
        self.truths += np.bincount(truth.labels[counts], minlength=NUM_IDS)

    def merge(self, other: CityscapesInstances) -> None:
        """Add the masks and segments of another instance, say of another process."""
        more = other._all_records()
        more["segment"] += np.where(more["segment"] < 0, 0, self.truths.sum())
        self._records.append(more)
        self.truths += other.truths

    def average_precision(self) -> FloatArray:
        """Return classes (as ``INSTANCE_LABELS``) x thresholds (as ``THRESHOLDS``), 0..1 or nan."""
        records = self._all_records()
        table = np.full((len(INSTANCE_LABELS), len(THRESHOLDS)), np.nan)
        for row, label in zip(table, INSTANCE_LABELS, strict=True):
            truths = int(self.truths[label.id])
            if truths:
                own = records[records["label"] == label.id]
                row[:] = [_precision_at(threshold, own, truths) for threshold in THRESHOLDS]
        return table

    def result(self) -> CityscapesInstanceResult:
        """Return the scores of what has been counted."""
        table = self.average_precision()
        names = [label.name for label in INSTANCE_LABELS]
        return CityscapesInstanceResult(
            ap=dict(zip(names, table.mean(axis=1).tolist(), strict=True)),
            ap50=dict(zip(names, table[:, 0].tolist(), strict=True)),
        )

    def _all_records(self) -> NDArray[np.void]:
        return np.concatenate([np.zeros(0, dtype=_RECORD), *self._records])


def _is_evaluated(label: int) -> bool:
    if not 0 <= label < NUM_IDS:
        raise ValueError(
            f"unexpected label id {label} of a mask: allowed are 0..{NUM_IDS - 1}, of which"
            f" {', '.join(map(str, _INSTANCE_IDS.tolist()))} are evaluated"
        )
    return label in _INSTANCE_IDS


def _compare(
    mask: NDArray[Any], label: int, score: float, truth: MapSegments, number: LabelArray
) -> tuple[int, float, float, int, float] | None:
    """Return the record of a mask; None for an empty one."""
    if mask.shape != truth.index.shape:
        raise ValueError(
            f"a mask of the size {mask.shape} does not fit the truth {truth.index.shape}"
        )
    if np.isnan(score):
        raise ValueError("the score of a mask is nan; it must be a number")
    pixels = truth.count(mask.astype(np.bool_, copy=False))
    area = int(pixels.sum())
    if not area:
        return None
    same = truth.labels == label
    common = np.where(same, pixels, 0)
    iou = common / (truth.sizes + area - common)
    best = int(iou.argmax())
    # Instances of labels that are not evaluated are no void to the benchmark, only bare ids are.
    void = truth.bare & (TRAIN_ID_OF_ID[truth.labels] == 255)
    excuses = void + same * (truth.bare.astype(int) + (truth.sizes < SMALLEST))
    return label, score, iou[best], int(number[best]), int(pixels @ excuses) / area


def _precision_at(threshold: float, records: NDArray[np.void], truths: int) -> float:
    """Return the average precision of the masks of one class for one threshold."""
    matched = records["iou"] > threshold
    found = records[matched & (records["segment"] >= 0)]
    found = found[np.lexsort((found["score"], found["segment"]))]
    # The last record of a segment has its highest score.
    correct = np.append(found["segment"][1:] != found["segment"][:-1], True)[: len(found)]
    wrong = records[~matched & (records["ignored"] <= threshold)]
    return area_under_curve(
        np.append(found["score"], wrong["score"]),
        np.append(correct, np.zeros(len(wrong), dtype=np.bool_)),
        truths,
    )


def area_under_curve(scores: FloatArray, correct: NDArray[np.bool_], truths: int) -> float:
    """Return area under precision over recall, for masks of which some are correct; 0 without any.

    A point for each different score: the masks that have at least that one.
    """
    order = np.argsort(scores)
    hits_below = np.append(0, np.cumsum(correct[order]))
    below = np.unique(scores[order], return_index=True)[1]
    hits = hits_below[-1] - hits_below[below]
    precision = np.append(hits / (len(scores) - below), 1.0)
    recall = np.append(hits / truths, 0.0)
    return float(np.dot(recall[:-1] - recall[1:], (precision[:-1] + precision[1:]) / 2))
