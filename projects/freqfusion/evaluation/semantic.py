"""Semantic scores as a Detectron2 evaluator: region IoU, boundary IoU, accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog

from freqfusion.data.reading import read_label_png, read_panoptic_png
from freqfusion.data.validation.ground_truth import labels_of_segments
from freqfusion.evaluation.streaming import (
    StreamingEvaluator,
    check_sizes,
    image_name,
    log_scores,
    predicted_labels,
    summed,
)
from freqfusion.metrics import BoundaryIoU, ConfusionMatrix
from freqfusion.metrics.confusion import LabelArray, mean_of_present


class SemanticEvaluator(StreamingEvaluator):
    """mIoU, mBoundaryIoU, fwIoU (weighted by frequency) and pACC (of pixels), in percent.

    mIoU is the mean over the classes that occur in the ground truth or in a prediction; ``mIoU-gt``
    is that over those of the ground truth, as Detectron2's ``SemSegEvaluator`` has it, which a
    class that is only predicted by mistake does not lower.

    Also ``IoU-<class>`` and ``BoundaryIoU-<class>`` of each of the metadata's ``stuff_classes``;
    nan for one that does not occur. Where the metadata names ``thin_classes``, ``mIoU-thin`` and
    ``mBoundaryIoU-thin`` are the means over those of them that are among ``stuff_classes`` (a
    Panoptic FPN's labels have no things) and that occur.

    The ground truth is ``sem_seg_file_name`` of the data set's dicts, or ``pan_seg_file_name`` with
    the classes of ``segments_info``; pixels of the metadata's ``ignore_label`` do not count, and
    any other label outside of the classes is a ValueError. With ``output_dir``, the scores and the
    confusion matrix (by row, the ground-truth class) are written to ``<dataset>_sem_seg.json``.

    The model's ``sem_seg`` is classes x height x width, of which the largest is the prediction.
    """

    output_key = result_key = "sem_seg"

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        super().__init__(dataset_name, output_dir, ("stuff_classes",))
        self.class_names: tuple[str, ...] = tuple(self.metadata.stuff_classes)
        self.thin_classes = thin_classes(self.class_names, self.metadata, dataset_name)
        self._files: dict[str, str] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        labels = len(self.class_names), self.metadata.get("ignore_label")
        self.confusion = ConfusionMatrix(*labels)
        self.boundary = BoundaryIoU(*labels)

    def count(self, image: Mapping[str, Any], output: Any) -> None:
        """Compare the ``sem_seg`` of one image with its ground truth."""
        name = image_name(image)
        prediction = predicted_labels(output, len(self.class_names), name, self.dataset_name)
        gt, path = self._ground_truth(image)
        check_sizes(name, prediction.shape, gt.shape, path)
        try:
            self.confusion.update(prediction, gt)
            self.boundary.update(prediction, gt)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def scores(self) -> dict[str, float] | None:
        """Return and log all scores over all processes."""
        confusion, boundary = summed(self.confusion), summed(self.boundary)
        if confusion is None or boundary is None:
            return None
        scores = semantic_scores(confusion, boundary, self.class_names, self.thin_classes)
        log_scores("semantic scores", self.dataset_name, scores)
        matrix = confusion.matrix.tolist()
        self.save({"percent": scores, "classes": self.class_names, "confusion": matrix})
        return scores

    def _ground_truth(self, image: Mapping[str, Any]) -> tuple[LabelArray, str]:
        """Return labels and their file: the label map, or else the panoptic PNG."""
        if "sem_seg_file_name" not in image and "pan_seg_file_name" in image:
            path = str(image["pan_seg_file_name"])
            label_of_id = {info["id"]: info["category_id"] for info in image["segments_info"]}
            ignored = self.metadata.get("ignore_label")
            void = 255 if ignored is None else ignored
            return labels_of_segments(path, read_panoptic_png(path), label_of_id, void), path
        path = self._ground_truth_file(image)
        return read_label_png(path), path

    def _ground_truth_file(self, image: Mapping[str, Any]) -> str:
        """Return it from the dict, or by file name: Detectron2's mapper drops it in tests."""
        if "sem_seg_file_name" in image:
            return str(image["sem_seg_file_name"])
        if self._files is None:
            self._files = {
                entry["file_name"]: entry["sem_seg_file_name"]
                for entry in DatasetCatalog.get(self.dataset_name)
                if "sem_seg_file_name" in entry
            }
        name = image_name(image)
        if name not in self._files:
            raise ValueError(
                f"{self.dataset_name} has no sem_seg_file_name for {name}; register the data set"
                " with its semantic label maps"
            )
        return self._files[name]


def semantic_scores(
    confusion: ConfusionMatrix,
    boundary: BoundaryIoU,
    class_names: tuple[str, ...],
    thin: tuple[str, ...] = (),
) -> dict[str, float]:
    """Return all scores in percent, the means first; those of ``thin`` classes if there are any."""
    scores = {
        "mIoU": confusion.mean_iou(),
        "mBoundaryIoU": boundary.mean_iou(),
        "fwIoU": frequency_weighted_iou(confusion),
        "pACC": confusion.pixel_accuracy(),
        "mIoU-gt": mean_of_present(confusion.iou()[confusion.matrix.any(axis=1)]),
    }
    if thin:
        chosen = np.array([name in thin for name in class_names])
        scores["mIoU-thin"] = mean_of_present(confusion.iou()[chosen])
        scores["mBoundaryIoU-thin"] = mean_of_present(boundary.iou()[chosen])
    for title, values in (("IoU", confusion.iou()), ("BoundaryIoU", boundary.iou())):
        scores |= {
            f"{title}-{name}": value
            for name, value in zip(class_names, values.tolist(), strict=True)
        }
    return {name: 100 * score for name, score in scores.items()}


def thin_classes(class_names: tuple[str, ...], metadata: Any, dataset_name: str) -> tuple[str, ...]:
    """Return the classes that the metadata calls thin; ValueError for an unknown one."""
    named = tuple(metadata.get("thin_classes", ()))
    known = {*class_names, *metadata.get("thing_classes", ())}
    unknown = [name for name in named if name not in known]
    if unknown:
        raise ValueError(
            f"thin_classes of {dataset_name} has {unknown[0]!r}, which is no class of it; the"
            f" classes are {', '.join(sorted(known))}"
        )
    return tuple(name for name in class_names if name in named)


def frequency_weighted_iou(confusion: ConfusionMatrix) -> float:
    """Return the mean IoU weighted by the share of ground-truth pixels; nan without pixels."""
    pixels = confusion.matrix.sum(axis=1)
    if not pixels.any():
        return float("nan")
    present = pixels > 0
    return float(np.average(confusion.iou()[present], weights=pixels[present]))
