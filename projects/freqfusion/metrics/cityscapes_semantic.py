"""Cityscapes' scores of semantic label maps: IoU and instance-weighted iIoU.

After M. Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016,
with the numbers of the benchmark's own evaluation (cityscapesscripts):

* The maps hold label ids. Pixels whose true label is not evaluated count nowhere. A label that is
  not evaluated can be predicted, which is a miss.
* iIoU exists for classes with instances: true pixels, hit or missed, weigh the class's average size
  of an instance divided by the size of theirs; false positives, which belong to no instance,
  weigh 1.
* A group (the benchmark's category, such as "vehicle") is scored as if its classes were one.
* What does not occur, in the truth or as a false positive, is nan and left out of the means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from freqfusion.metrics.cityscapes_labels import (
    ALL_LABELS,
    CITYSCAPES_LABELS,
    INSTANCE_LABELS,
    NUM_IDS,
    id_table,
    read_segments_of_map,
)
from freqfusion.metrics.confusion import ConfusionMatrix, LabelArray, mean_of_present

FloatArray = NDArray[np.float64]

AVERAGE_SIZES = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
"""Pixels of the average instance of a class in the training set, as the benchmark fixes them."""

GROUPS = tuple(dict.fromkeys(label.group for label in CITYSCAPES_LABELS))
INSTANCE_GROUPS = tuple(dict.fromkeys(label.group for label in INSTANCE_LABELS))
_SIZE_OF_ID = id_table(
    {label.id: AVERAGE_SIZES[label.name] for label in INSTANCE_LABELS}, 0, np.float64
)
_GROUP_OF_ID = id_table(
    {label.id: GROUPS.index(label.group) for label in ALL_LABELS if label.group in GROUPS},
    -1,
    np.int64,
)
_EVALUATED = np.array([label.id for label in CITYSCAPES_LABELS])


@dataclass(frozen=True)
class CityscapesSemanticResult:
    """Scores by name, 0..1, nan for what does not occur; classes and groups with instances."""

    class_iou: dict[str, float]
    class_iiou: dict[str, float]
    group_iou: dict[str, float]
    group_iiou: dict[str, float]

    def means(self) -> dict[str, float]:
        """Return the four means under their usual names; nan where nothing occurs."""
        scores = {
            "IoU": self.class_iou,
            "iIoU": self.class_iiou,
            "IoU_sup": self.group_iou,
            "iIoU_sup": self.group_iiou,
        }
        return {name: mean_of_present(np.array([*of.values()])) for name, of in scores.items()}


class CityscapesSemantic:
    """Pixels of each label, and weighted pixels of instances, over a data set."""

    def __init__(self) -> None:
        self.confusion = ConfusionMatrix(NUM_IDS, ignore_label=None)
        # By label id, over instances: weighted pixels, those with the right label, and those with
        # a label of the right group.
        self.weighted: FloatArray = np.zeros((3, NUM_IDS))

    def update(self, prediction: LabelArray, truth: LabelArray, instance_ids: LabelArray) -> None:
        """Count one image: three height x width maps, label ids and the truth's instance ids.

        A label or id that Cityscapes does not have is a ValueError, and then nothing is counted.
        """
        segments = read_segments_of_map(instance_ids)
        if instance_ids.shape != truth.shape:
            raise ValueError(
                f"the instance map {instance_ids.shape} and the truth {truth.shape} differ in size"
            )
        self.confusion.update(prediction, truth)
        label = segments.labels[segments.index]
        pixels = np.stack(
            [
                segments.sizes,
                segments.count(prediction == label),
                segments.count(_GROUP_OF_ID[prediction] == _GROUP_OF_ID[label]),
            ]
        )
        size = np.where(segments.bare, 0, _SIZE_OF_ID[segments.labels])
        for total, weighted in zip(self.weighted, pixels * (size / segments.sizes), strict=True):
            total += np.bincount(segments.labels, weights=weighted, minlength=NUM_IDS)

    def merge(self, other: CityscapesSemantic) -> None:
        """Add the counts of another instance, say of another process."""
        self.confusion.merge(other.confusion)
        self.weighted += other.weighted

    def result(self) -> CityscapesSemanticResult:
        """Return the scores of what has been counted."""
        ids = {label.name: np.array([label.id]) for label in CITYSCAPES_LABELS}
        groups = {group: np.flatnonzero(at == _GROUP_OF_ID) for at, group in enumerate(GROUPS)}
        return CityscapesSemanticResult(
            class_iou={name: self._iou(labels) for name, labels in ids.items()},
            class_iiou={label.name: self._iiou(ids[label.name], 1) for label in INSTANCE_LABELS},
            group_iou={
                name: self._iou(np.intersect1d(labels, _EVALUATED))
                for name, labels in groups.items()
            },
            group_iiou={name: self._iiou(groups[name], 2) for name in INSTANCE_GROUPS},
        )

    def _iou(self, labels: NDArray[np.int64]) -> float:
        """Return the IoU of evaluated labels, taken as one."""
        hits = int(self.confusion.matrix[np.ix_(labels, labels)].sum())
        true = int(self.confusion.matrix[labels].sum())
        return _ratio(hits, true + self._false_positives(labels))

    def _iiou(self, labels: NDArray[np.int64], row: int) -> float:
        """The same with weighted pixels; ``row`` of ``weighted`` has the hits."""
        true, hits = self.weighted[0, labels].sum(), self.weighted[row, labels].sum()
        return _ratio(float(hits), float(true) + self._false_positives(labels))

    def _false_positives(self, labels: NDArray[np.int64]) -> int:
        """Return pixels of other evaluated labels that are predicted as one of these."""
        others = np.setdiff1d(_EVALUATED, labels)
        return int(self.confusion.matrix[np.ix_(others, labels)].sum())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
