"""Class-wise boundary IoU of semantic label maps.

After B. Cheng, R. Girshick, P. Dollár, A. C. Berg, A. Kirillov, "Boundary IoU: Improving
Object-Centric Image Segmentation Evaluation", CVPR 2021: the boundary of a mask is the part of it
within d pixels of its contour, that is the mask less its erosion by a square of side 2 d + 1, and
the score is the IoU of the two boundaries. d is 2 % of the image diagonal unless given. Choices
where the paper leaves some:

* The image border is a contour, as in the authors' code (which pads with zeros before it erodes):
  a mask that runs out of the image has a boundary along the border.
* Void pixels count nowhere, and the edge of a void area is a contour too, in the target and in the
  prediction alike. So what is predicted inside void cannot change the score, and a prediction that
  is right everywhere else scores 1.
* Intersections and unions are summed over the data set before dividing, class by class, as mean
  IoU does it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from freqfusion.metrics.confusion import (
    LabelArray,
    check_label_maps,
    check_num_classes,
    mean_of_present,
    ratio,
)

BoolArray = NDArray[np.bool_]


class BoundaryIoU:
    """Boundary intersections and unions of each class over a data set.

    ``distance`` is the boundary's width in pixels; None takes ``dilation_ratio`` of each image's
    diagonal.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_label: int | None = 255,
        *,
        dilation_ratio: float = 0.02,
        distance: int | None = None,
    ) -> None:
        check_num_classes(num_classes, ignore_label)
        if not 0 < dilation_ratio < 1:
            raise ValueError(f"dilation_ratio must lie between 0 and 1, not {dilation_ratio}")
        if distance is not None and distance < 1:
            raise ValueError(f"distance must be 1 pixel or more (or None), not {distance}")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.dilation_ratio = dilation_ratio
        self.distance = distance
        self.intersection: NDArray[np.int64] = np.zeros(num_classes, dtype=np.int64)
        self.union: NDArray[np.int64] = np.zeros(num_classes, dtype=np.int64)

    def update(self, prediction: LabelArray, target: LabelArray) -> None:
        """Count one image: two height x width label maps, checked as in ``ConfusionMatrix``."""
        if target.ndim != 2:
            raise ValueError(
                f"a label map is height x width, not {target.shape}; pass one at a time"
            )
        counts = check_label_maps(prediction, target, self.num_classes, self.ignore_label)
        distance = self.distance or boundary_width(target.shape, self.dilation_ratio)
        # A label of its own makes void equal in both maps, and its edge a contour of both.
        truth = np.where(counts, target.astype(np.int32), np.int32(-1))
        guess = np.where(counts, prediction.astype(np.int32), np.int32(-1))
        truth[interior(truth, distance)] = -1
        guess[interior(guess, distance)] = -1
        both = truth[truth == guess]
        common = self._count(both)
        self.intersection += common
        self.union += self._count(truth) + self._count(guess) - common

    def merge(self, other: BoundaryIoU) -> None:
        """Add the counts of another instance with the same settings, say of another process."""
        if self._settings() != other._settings():
            raise ValueError(
                "only counts with the same settings can be merged, not"
                f" {self._settings()} and {other._settings()}"
            )
        self.intersection += other.intersection
        self.union += other.union

    def iou(self) -> NDArray[np.float64]:
        """Return boundary IoU of each class, 0..1; nan for one in no target and no prediction."""
        return ratio(self.intersection, self.union)

    def mean_iou(self) -> float:
        """Return the mean of ``iou`` over the classes that occur; nan when none does."""
        return mean_of_present(self.iou())

    def _count(self, labels: LabelArray) -> NDArray[np.int64]:
        counts = np.bincount(labels.ravel().astype(np.int64) + 1, minlength=self.num_classes + 1)
        return counts[1:]

    def _settings(self) -> tuple[int, int | None, float, int | None]:
        return self.num_classes, self.ignore_label, self.dilation_ratio, self.distance


def boundary_width(size: tuple[int, ...], dilation_ratio: float = 0.02) -> int:
    """``dilation_ratio`` of the diagonal of ``size`` = (height, width), rounded, at least 1."""
    return max(1, round(dilation_ratio * math.hypot(*size)))


def erode(mask: BoolArray, distance: int) -> BoolArray:
    """Return pixels whose whole (2 distance + 1)-square is in the mask, and in the image."""
    _check_distance(distance)
    side = 2 * distance + 1
    return _framed(_all_in_windows(mask, side, side), distance, mask.shape)


def interior(labels: LabelArray, distance: int) -> BoolArray:
    """Return pixels whose whole (2 distance + 1)-square has one label, and is in the image.

    This is the erosion of all classes of a label map at once.
    """
    _check_distance(distance)
    level = labels[:, 1:] == labels[:, :-1]
    upright = labels[1:] == labels[:-1]
    side = 2 * distance + 1
    # A square has one label where all neighbours in it are equal, along rows and along columns.
    inner = _all_in_windows(level, side, side - 1) & _all_in_windows(upright, side - 1, side)
    return _framed(inner, distance, labels.shape)


def _check_distance(distance: int) -> None:
    if distance < 1:
        raise ValueError(f"distance must be 1 pixel or more, not {distance}")


def _framed(inner: BoolArray, distance: int, shape: tuple[int, ...]) -> BoolArray:
    """Put results for whole windows back into the image: False where a window would leave it."""
    result = np.zeros(shape, dtype=np.bool_)
    if inner.size:
        result[distance:-distance, distance:-distance] = inner
    return result


def _all_in_windows(mask: BoolArray, height: int, width: int) -> BoolArray:
    """Whether all of a height x width window is set, for each window that fits into the mask."""
    if mask.shape[0] < height or mask.shape[1] < width:
        return np.zeros(
            (max(mask.shape[0] - height + 1, 0), max(mask.shape[1] - width + 1, 0)), np.bool_
        )
    return _all_in_runs(_all_in_runs(mask.T, width).T, height)


def _all_in_runs(mask: BoolArray, length: int) -> BoolArray:
    """The same for runs down the columns, by doubling: runs of 1, 2, 4, ..., then an overlap."""
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        mask = mask[:-step] & mask[step:]
        covered += step
    return mask
