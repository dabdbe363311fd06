"""Segments of panoptic maps, and how the segments of two maps overlap.

Arrays over a map's segments have one entry more than it has segments: entry 0 is void, the pixels
of id 0, which belong to no segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.metrics.confusion import LabelArray

# One entry of COCO's ``segments_info``, and one of its ``annotations``.
SegmentInfo = Mapping[str, Any]
Annotation = Mapping[str, Any]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """What is declared of the segments of one map.

    ``category`` counts in the order of the categories and is -1 for void; ``area`` is nan where
    none is declared. ``side`` names the map in messages.
    """

    side: str
    ids: IntArray
    category: IntArray
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]

    def find(self, ids: IntArray) -> IntArray:
        """Return the entry of each id; ValueError for one that is neither void nor a segment."""
        order = np.argsort(self.ids)
        place = np.searchsorted(self.ids, ids, sorter=order)
        entry = order[np.minimum(place, len(order) - 1)]
        unknown = self.ids[entry] != ids
        if unknown.any():
            raise ValueError(
                f"the {self.side} map has pixels of id {some(np.unique(ids[unknown]))}, but its"
                f" segments are {some(self.ids[1:])}; list them all, and give void the id 0"
            )
        return entry

    def sums(self, entries: IntArray, pixels: IntArray) -> IntArray:
        """Return the sum of the pixels of each entry."""
        return np.bincount(entries, weights=pixels, minlength=len(self.ids)).astype(np.int64)


@dataclass(frozen=True)
class Overlaps:
    """Pairs of entries (truth, prediction) that share pixels, and how many; void is one of them.

    The areas are those of all segments of a side, counted in its map.
    """

    truth: IntArray
    prediction: IntArray
    pixels: IntArray
    truth_area: IntArray
    prediction_area: IntArray


def read_segments(
    side: str, infos: Iterable[SegmentInfo], category_index: Mapping[int, int]
) -> Segments:
    """Segments from ``segments_info``; ValueError for one without a usable id or category."""
    ids, categories, crowd, area = [0], [-1], [False], [float("nan")]
    for info in infos:
        if "id" not in info or "category_id" not in info:
            raise ValueError(f"a segment of the {side} lacks 'id' or 'category_id': {dict(info)}")
        if info["category_id"] not in category_index:
            raise ValueError(
                f"segment {info['id']} of the {side} has the category {info['category_id']};"
                f" known are {some(category_index)}"
            )
        ids.append(info["id"])
        categories.append(category_index[info["category_id"]])
        crowd.append(bool(info.get("iscrowd", 0)))
        declared = info.get("area")
        area.append(float("nan") if declared is None else float(declared))
    if len(set(ids)) < len(ids):
        doubled = sorted({number for number in ids if ids.count(number) > 1})
        raise ValueError(
            f"ids of the {side}'s segments must differ from each other and from 0, which is void;"
            f" twice or 0: {some(doubled)}"
        )
    return Segments(
        side=side,
        ids=np.array(ids, dtype=np.int64),
        category=np.array(categories, dtype=np.int64),
        crowd=np.array(crowd, dtype=np.bool_),
        area=np.array(area, dtype=np.float64),
    )


def count_overlaps(
    prediction_ids: LabelArray, prediction: Segments, truth_ids: LabelArray, truth: Segments
) -> Overlaps:
    """Count the pixels of every pair in two height x width id maps.

    Pixels are counted by runs of equal pairs along the rows: only the first pixel of a run is
    looked up, and there are far fewer runs than pixels.
    """
    check_id_maps(prediction_ids, truth_ids)
    first, second = truth_ids.ravel(), prediction_ids.ravel()
    begins = np.ones(first.size, dtype=np.bool_)
    begins[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=first.size)
    width = len(prediction.ids)
    pairs = truth.find(first[starts].astype(np.int64)) * width
    pairs += prediction.find(second[starts].astype(np.int64))
    present, which = np.unique(pairs, return_inverse=True)
    pixels = np.bincount(which, weights=lengths).astype(np.int64)
    truth_entry, prediction_entry = np.divmod(present, width)
    return Overlaps(
        truth=truth_entry,
        prediction=prediction_entry,
        pixels=pixels,
        truth_area=_counted_area(truth, truth_entry, pixels),
        prediction_area=_counted_area(prediction, prediction_entry, pixels),
    )


def _counted_area(segments: Segments, entries: IntArray, pixels: IntArray) -> IntArray:
    area = segments.sums(entries, pixels)
    empty = segments.ids[1:][area[1:] == 0]
    if empty.size:
        raise ValueError(
            f"segment {some(empty)} of the {segments.side} has no pixels in its map; leave it out"
            " of the segments"
        )
    return area


def check_id_maps(prediction_ids: LabelArray, truth_ids: LabelArray) -> None:
    """Raise ValueError unless both are height x width maps of integers, of the same size."""
    for side, ids in (("prediction", prediction_ids), ("truth", truth_ids)):
        if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"the {side} must be a height x width map of integer ids, not {ids.dtype} of shape"
                f" {ids.shape}; rgb_to_id makes ids of colours"
            )
    if prediction_ids.shape != truth_ids.shape:
        raise ValueError(
            f"prediction {prediction_ids.shape} and truth {truth_ids.shape} differ in size;"
            " resize the prediction to the truth first, by nearest neighbours"
        )


def pair_annotations(
    predictions: Iterable[Annotation], truths: Iterable[Annotation]
) -> list[tuple[Annotation, Annotation]]:
    """Return (prediction, ground truth) of each image of the latter, by ``image_id``.

    Predictions for other images are left out; an image without a prediction is a ValueError.
    """
    by_image = {annotation["image_id"]: annotation for annotation in predictions}
    truths = list(truths)
    missing = [truth["image_id"] for truth in truths if truth["image_id"] not in by_image]
    if missing:
        raise ValueError(
            f"no prediction for image {some(missing)}: {len(missing)} of {len(truths)} images;"
            " predict an image without segments as a map of zeros"
        )
    return [(by_image[truth["image_id"]], truth) for truth in truths]


def some(values: Iterable[Any]) -> str:
    """Return the first eight values, for a message."""
    listed: Sequence[Any] = list(values)
    rest = f", ... ({len(listed)} in all)" if len(listed) > 8 else ""
    return (", ".join(str(value) for value in listed[:8]) or "none") + rest
