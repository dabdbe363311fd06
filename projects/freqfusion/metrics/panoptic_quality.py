"""Panoptic quality.

After A. Kirillov, K. He, R. Girshick, C. Rother, P. Dollár, "Panoptic Segmentation", CVPR 2019: a
predicted and a true segment of one category match where their IoU is above 1/2, so that neither can
match twice, and with the sum over the matches

    SQ = sum IoU / TP        RQ = TP / (TP + FP / 2 + FN / 2)        PQ = SQ * RQ.

What the paper leaves open is done as in COCO's evaluation (panopticapi):

* A prediction's pixels in the truth's void are not in its union with a true segment.
* A crowd segment is neither matched nor missed. An unmatched prediction is no false positive when
  more than half of it lies on void and the crowd segment of its category; where an image has
  several of a category, on the last of them.
* A category with no segment on either side is left out of the averages.

Two things differ. Areas are counted in the map, not believed; and what would be a division by zero
is nan, also for a category that does not occur.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.metrics.confusion import LabelArray, mean_of_present
from freqfusion.metrics.panoptic_segments import (
    IntArray,
    Overlaps,
    SegmentInfo,
    Segments,
    count_overlaps,
    read_segments,
    some,
)

Category = Mapping[str, Any]


@dataclass(frozen=True)
class ClassQuality:
    """Scores of a category, 0..1: nan when it has no segment; ``sq`` is 0 when nothing matches."""

    id: int
    name: str
    isthing: bool
    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    iou_sum: float


@dataclass(frozen=True)
class GroupQuality:
    """Means over the ``n`` categories of a group that have a segment; nan when n is 0."""

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class PanopticResult:
    """Scores of all categories in their order, and of the groups All, Things and Stuff."""

    classes: tuple[ClassQuality, ...]
    groups: dict[str, GroupQuality]


def class_quality(category: Category, tp: int, fp: int, fn: int, iou_sum: float) -> ClassQuality:
    """Return the scores of a category from its counts."""
    weight = tp + fp / 2 + fn / 2
    nothing = 0.0 if weight else float("nan")
    return ClassQuality(
        id=category["id"],
        name=str(category.get("name", category["id"])),
        isthing=bool(category["isthing"]),
        pq=iou_sum / weight if weight else nothing,
        sq=iou_sum / tp if tp else nothing,
        rq=tp / weight if weight else nothing,
        tp=tp,
        fp=fp,
        fn=fn,
        iou_sum=iou_sum,
    )


def summarize(classes: tuple[ClassQuality, ...]) -> PanopticResult:
    """Return the result of all categories, with the means of its groups."""
    groups = {
        "All": _mean(classes),
        "Things": _mean(score for score in classes if score.isthing),
        "Stuff": _mean(score for score in classes if not score.isthing),
    }
    return PanopticResult(classes, groups)


def _mean(scores: Iterable[ClassQuality]) -> GroupQuality:
    columns = np.array([(score.pq, score.sq, score.rq) for score in scores]).reshape(-1, 3)
    pq, sq, rq = (mean_of_present(column) for column in columns.T)
    return GroupQuality(pq, sq, rq, n=int(np.sum(~np.isnan(columns[:, 0]))))


def panoptic_table(result: PanopticResult) -> str:
    """Return a table of the scores in percent: a row for each category, then the groups."""
    rows = [("category", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN")]
    for score in result.classes:
        kind = "thing" if score.isthing else "stuff"
        counts = (str(score.tp), str(score.fp), str(score.fn))
        rows.append((score.name, kind, *_percents(score), *counts))
    for name, group in result.groups.items():
        rows.append((name, f"n = {group.n}", *_percents(group), "", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _percents(score: ClassQuality | GroupQuality) -> tuple[str, str, str]:
    return f"{100 * score.pq:.2f}", f"{100 * score.sq:.2f}", f"{100 * score.rq:.2f}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


logger = logging.getLogger(__name__)

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Matches:
    """Pairs that match, with their IoU; predictions that are wrong, and true segments missed."""

    pairs: BoolArray
    iou: NDArray[np.float64]
    wrong: BoolArray
    missed: BoolArray


class PanopticQuality:
    """Matches, false positives and misses of each category over a data set.

    ``categories`` are as in COCO's JSON: ``id``, ``isthing`` and, where there is one, ``name``.
    ``trust_area`` believes the ``area`` of true segments, as panopticapi does; a wrong one then
    gives wrong scores, so it is for comparisons only.
    """

    def __init__(self, categories: Iterable[Category], *, trust_area: bool = False) -> None:
        self.categories = tuple(dict(category) for category in categories)
        self.trust_area = trust_area
        for category in self.categories:
            if "id" not in category or "isthing" not in category:
                raise ValueError(f"a category needs 'id' and 'isthing', which {category} lacks")
        self._index = {category["id"]: at for at, category in enumerate(self.categories)}
        if not self.categories or len(self._index) < len(self.categories):
            ids = some(category["id"] for category in self.categories)
            raise ValueError(f"give one category or more, each with an id of its own, not {ids}")
        self.tp: IntArray = np.zeros(len(self.categories), dtype=np.int64)
        self.fp = self.tp.copy()
        self.fn = self.tp.copy()
        self.iou_sum: NDArray[np.float64] = np.zeros(len(self.categories))

    def update(
        self,
        prediction_ids: LabelArray,
        prediction_segments: Iterable[SegmentInfo],
        truth_ids: LabelArray,
        truth_segments: Iterable[SegmentInfo],
        *,
        image: object = None,
    ) -> None:
        """Count one image: height x width id maps (0 is void), and what their segments are.

        A segment has ``id`` and ``category_id``, perhaps ``area``, and a true one ``iscrowd`` (0
        unless given). ``image`` names the image in messages. After a ValueError nothing is counted.
        """
        try:
            prediction = read_segments("prediction", prediction_segments, self._index)
            truth = read_segments("truth", truth_segments, self._index)
            overlaps = count_overlaps(prediction_ids, prediction, truth_ids, truth)
            area = declared_area(truth) if self.trust_area else overlaps.truth_area.astype(float)
        except ValueError as error:
            if image is None:
                raise
            raise ValueError(f"image {image}: {error}") from error
        self._warn_of_areas(prediction, truth, overlaps, image)
        found = match_segments(prediction, truth, overlaps, area)
        size = len(self.categories)
        hits = truth.category[overlaps.truth[found.pairs]]
        self.tp += np.bincount(hits, minlength=size)
        self.fp += np.bincount(prediction.category[found.wrong], minlength=size)
        self.fn += np.bincount(truth.category[found.missed], minlength=size)
        self.iou_sum += np.bincount(hits, weights=found.iou, minlength=size)

    def merge(self, other: PanopticQuality) -> None:
        """Add the counts of another instance with the same settings, say of another process."""
        if (self.categories, self.trust_area) != (other.categories, other.trust_area):
            raise ValueError(
                "only counts of the same categories, in the same order, and the same trust_area can"
                f" be merged, not of {some(self._index)} ({self.trust_area}) and of"
                f" {some(other._index)} ({other.trust_area})"
            )
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        self.iou_sum += other.iou_sum

    def result(self) -> PanopticResult:
        """Return the scores of what has been counted."""
        counts = zip(self.tp, self.fp, self.fn, self.iou_sum, strict=True)
        return summarize(
            tuple(
                class_quality(category, int(tp), int(fp), int(fn), float(iou_sum))
                for category, (tp, fp, fn, iou_sum) in zip(self.categories, counts, strict=True)
            )
        )

    def _warn_of_areas(
        self, prediction: Segments, truth: Segments, overlaps: Overlaps, image: object
    ) -> None:
        """Log one line for an image with a declared area that is not the counted one."""
        sides = (truth, overlaps.truth_area), (prediction, overlaps.prediction_area)
        wrong = [
            f"segment {segments.ids[at]} of the {segments.side} has {area[at]} pixels, not"
            f" {segments.area[at]:.15g}"
            for segments, area in sides
            for at in np.flatnonzero(~np.isnan(segments.area) & (segments.area != area))
        ]
        if wrong:
            name = "" if image is None else f"image {image}: "
            used = "declared" if self.trust_area else "counted"
            logger.warning("%s%s; the %s area is used", name, some(wrong), used)


def match_segments(
    prediction: Segments, truth: Segments, overlaps: Overlaps, truth_area: NDArray[np.float64]
) -> Matches:
    """Decide on every pair that overlaps and on every segment, given the true segments' areas."""
    of_truth, of_guess, pixels = overlaps.truth, overlaps.prediction, overlaps.pixels
    on_void = of_truth == 0
    void = prediction.sums(of_guess, pixels * on_void)
    union = truth_area[of_truth] + (overlaps.prediction_area - void)[of_guess] - pixels
    same_category = truth.category[of_truth] == prediction.category[of_guess]
    pairs = same_category & ~on_void & ~truth.crowd[of_truth] & (2 * pixels > union)

    # The last of several values for one index stays: the last crowd segment of a category. Void
    # predictions, of category -1, find the additional entry.
    crowds = np.flatnonzero(truth.crowd)
    crowd_of = np.full(max(truth.category.max(), prediction.category.max()) + 2, -1)
    crowd_of[truth.category[crowds]] = crowds
    on_crowd = of_truth == crowd_of[prediction.category[of_guess]]
    excused = prediction.sums(of_guess, pixels * (on_void | on_crowd))

    missed = ~truth.crowd
    missed[of_truth[pairs]] = False
    wrong = 2 * excused <= overlaps.prediction_area
    wrong[of_guess[pairs]] = False
    missed[0] = wrong[0] = False
    return Matches(pairs, pixels[pairs] / union[pairs], wrong, missed)


def declared_area(truth: Segments) -> NDArray[np.float64]:
    """The ``area`` of every segment, 0 for void; ValueError where it is missing or not positive."""
    area = truth.area.copy()
    area[0] = 0
    wrong = truth.ids[1:][~(area[1:] > 0)]
    if wrong.size:
        raise ValueError(
            f"trust_area needs a positive 'area' of every true segment, which {some(wrong)} lacks;"
            " leave trust_area off to count the pixels"
        )
    return area
