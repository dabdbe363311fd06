"""Confusion matrix of semantic labels, and the scores read from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LabelArray = NDArray[np.integer[Any]]


def check_num_classes(num_classes: int, ignore_label: int | None) -> None:
    """Raise ValueError unless there is a class, and the ignored label is not one of the classes."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not {num_classes}")
    if ignore_label is not None and 0 <= ignore_label < num_classes:
        raise ValueError(
            f"ignore_label {ignore_label} is one of the {num_classes} classes 0..{num_classes - 1};"
            " give a label outside of them, or None"
        )


def check_label_maps(
    prediction: LabelArray, target: LabelArray, num_classes: int, ignore_label: int | None
) -> NDArray[np.bool_]:
    """Mask of the pixels that count; ValueError for labels that are neither a class nor ignored.

    The prediction is free where the target is ignored.
    """
    for name, labels in (("prediction", prediction), ("target", target)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"the {name} must hold integer labels, not {labels.dtype}")
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} differ in shape;"
            " resize the prediction to the target first"
        )
    if ignore_label is None:
        counts = np.ones(target.shape, dtype=np.bool_)
    else:
        counts = target != ignore_label
    for name, labels in (("prediction", prediction), ("target", target)):
        wrong = counts & ((labels < 0) | (labels >= num_classes))
        if wrong.any():
            found = ", ".join(str(label) for label in np.unique(labels[wrong])[:8])
            ignored = "" if ignore_label is None else f", or {ignore_label} (ignored) in the target"
            raise ValueError(
                f"unexpected label {found} in the {name}: allowed are 0..{num_classes - 1}"
                f"{ignored}; map the labels first, or set num_classes and ignore_label to fit"
            )
    return counts


class ConfusionMatrix:
    """Counts of pixels over a data set; ``matrix[target, prediction]``, int64.

    Pixels whose target is ``ignore_label`` do not count (None: all count). A label that is neither
    a class nor ignored is a ValueError, and then nothing is counted.
    """

    def __init__(self, num_classes: int, ignore_label: int | None = 255) -> None:
        check_num_classes(num_classes, ignore_label)
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.matrix: NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)

    def update(self, prediction: LabelArray, target: LabelArray) -> None:
        """Count the pixels of one image, or of a batch; two arrays of labels of the same shape."""
        counts = check_label_maps(prediction, target, self.num_classes, self.ignore_label)
        pairs = target[counts].astype(np.int64) * self.num_classes + prediction[counts]
        table = np.bincount(pairs, minlength=self.num_classes**2)
        self.matrix += table.reshape(self.num_classes, self.num_classes)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, for instance of another process."""
        if (self.num_classes, self.ignore_label) != (other.num_classes, other.ignore_label):
            raise ValueError(
                f"a matrix of {self.num_classes} classes, ignored label {self.ignore_label}, cannot"
                f" take one of {other.num_classes}, ignored label {other.ignore_label}"
            )
        self.matrix += other.matrix

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union by class, 0..1; nan for one in no target and no prediction."""
        hits = np.diag(self.matrix)
        union = self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - hits
        return ratio(hits, union)

    def mean_iou(self) -> float:
        """Return the mean of ``iou`` over the classes that occur; nan when none does."""
        return mean_of_present(self.iou())

    def pixel_accuracy(self) -> float:
        """Return the part of the counted pixels whose class is right; nan when none was counted."""
        total = int(self.matrix.sum())
        return int(np.trace(self.matrix)) / total if total else float("nan")


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ``part / whole``, nan where ``whole`` is 0."""
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def mean_of_present(scores: NDArray[np.float64]) -> float:
    """Return the mean of the scores that are not nan; nan when all are."""
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if present.size else float("nan")
