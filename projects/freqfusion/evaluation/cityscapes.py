"""Cityscapes' own scores as Detectron2 evaluators, without cityscapesscripts.

The ground truth of ``.../<city>/<name>_leftImg8bit.png`` is
``<gt_dir>/<city>/<name>_gtFine_labelIds.png`` and ``..._instanceIds.png``, with ``gt_dir`` from the
metadata. Classes are known by their names: ``stuff_classes`` of the metadata are the channels of
``sem_seg``, and ``thing_classes`` (the eight with instances, or all of a panoptic data set) are
what ``pred_classes`` counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager
from numpy.typing import NDArray

from freqfusion.data.reading import read_label_png
from freqfusion.evaluation.streaming import (
    StreamingEvaluator,
    check_sizes,
    image_name,
    log_scores,
    predicted_labels,
    summed,
)
from freqfusion.metrics import (
    CITYSCAPES_LABELS,
    BoundaryIoU,
    CityscapesInstanceResult,
    CityscapesInstances,
    CityscapesSemantic,
    CityscapesSemanticResult,
)
from freqfusion.metrics.cityscapes_labels import IGNORED_TRAIN_ID, LABEL_OF_NAME, TRAIN_ID_OF_ID

LabelMap = NDArray[np.integer[Any]]
_SUFFIX = "_leftImg8bit"


class CityscapesSemanticEvaluator(StreamingEvaluator):
    """IoU and iIoU of the 19 classes, ``_sup`` those of the groups of classes, in percent.

    Also ``mBoundaryIoU``, and all of these for each class and group (``iIoU-car``,
    ``IoU_sup-vehicle``); nan for one that does not occur. With ``output_dir``, the scores and the
    confusion matrix of the 34 label ids (by row, the true one) are written to
    ``<dataset>_sem_seg.json``.

    The model's ``sem_seg`` is classes x height x width, of which the largest is the prediction.
    """

    output_key = result_key = "sem_seg"

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        super().__init__(dataset_name, output_dir, ("gt_dir", "stuff_classes"))
        names = self.metadata.stuff_classes
        self._ids = np.array(_label_ids(dataset_name, "stuff_classes", names), dtype=np.uint8)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.semantic = CityscapesSemantic()
        self.boundary = BoundaryIoU(len(CITYSCAPES_LABELS), IGNORED_TRAIN_ID)

    def count(self, image: Mapping[str, Any], output: Any) -> None:
        """Compare the ``sem_seg`` of one image with its ground truth."""
        name = image_name(image)
        labels = predicted_labels(output, len(self._ids), name, self.dataset_name)
        prediction = self._ids[labels]
        gt, path = _read_ground_truth(self, image, "labelIds", prediction.shape)
        instances, _ = _read_ground_truth(self, image, "instanceIds", prediction.shape)
        try:
            self.semantic.update(prediction, gt, instances)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self.boundary.update(TRAIN_ID_OF_ID[prediction], TRAIN_ID_OF_ID[gt])

    def scores(self) -> dict[str, float] | None:
        """Return and log all scores over all processes."""
        semantic, boundary = summed(self.semantic), summed(self.boundary)
        if semantic is None or boundary is None:
            return None
        scores = semantic_scores(semantic.result(), boundary)
        log_scores("Cityscapes semantic scores", self.dataset_name, scores)
        self.save({"percent": scores, "confusion": semantic.confusion.matrix.tolist()})
        return scores


class CityscapesInstanceEvaluator(StreamingEvaluator):
    """Average precision of masks, AP (over the IoU 0.5, 0.55, ... 0.95) and AP50, in percent.

    Also ``AP-<class>`` and ``AP50-<class>`` of the eight classes with instances; nan for one that
    does not occur. With ``output_dir``, the scores are written to ``<dataset>_segm.json``.

    The model's ``instances`` need ``pred_masks`` (n x height x width; what is not 0 belongs to a
    mask), ``pred_classes`` and ``scores``. Masks of classes without instances are left out.
    """

    output_key = "instances"
    result_key = "segm"

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        super().__init__(dataset_name, output_dir, ("gt_dir", "thing_classes"))
        self._ids = _label_ids(dataset_name, "thing_classes", self.metadata.thing_classes)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self.instances = CityscapesInstances()

    def find(self, output: Mapping[str, Any]) -> Any | None:
        """Return the ``instances`` of an output if they have masks; boxes have no such scores."""
        instances = super().find(output)
        return instances if instances is not None and instances.has("pred_masks") else None

    def count(self, image: Mapping[str, Any], output: Any) -> None:
        """Compare the masks of one image with its ground truth."""
        instances = output.to("cpu")
        classes = instances.pred_classes.tolist()
        unknown = [number for number in classes if not 0 <= number < len(self._ids)]
        if unknown:
            raise ValueError(
                f"the instances of {image_name(image)} have the class {unknown[0]}, but"
                f" {self.dataset_name} has 0..{len(self._ids) - 1}; does the model's number of"
                " classes fit?"
            )
        masks = instances.pred_masks.numpy()
        labels = [self._ids[number] for number in classes]
        gt, path = _read_ground_truth(self, image, "instanceIds", masks.shape[-2:])
        try:
            self.instances.update(masks, labels, instances.scores.tolist(), gt)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def scores(self) -> dict[str, float] | None:
        """Return and log all scores over all processes."""
        instances = summed(self.instances)
        if instances is None:
            return None
        scores = instance_scores(instances.result())
        log_scores("Cityscapes instance scores", self.dataset_name, scores)
        self.save({"percent": scores})
        return scores


def semantic_scores(result: CityscapesSemanticResult, boundary: BoundaryIoU) -> dict[str, float]:
    """Return all scores in percent, the means first."""
    names = [label.name for label in CITYSCAPES_LABELS]
    parts = {
        "IoU": result.class_iou,
        "iIoU": result.class_iiou,
        "IoU_sup": result.group_iou,
        "iIoU_sup": result.group_iiou,
        "BoundaryIoU": dict(zip(names, boundary.iou().tolist(), strict=True)),
    }
    means = {**result.means(), "mBoundaryIoU": boundary.mean_iou()}
    return _percent(means, parts)


def instance_scores(result: CityscapesInstanceResult) -> dict[str, float]:
    """Return all scores in percent, the means first."""
    return _percent(result.means(), {"AP": result.ap, "AP50": result.ap50})


def gt_path(gt_dir: str, file_name: str, kind: str) -> str:
    """Return the ground-truth file of an image; ``kind`` is labelIds or instanceIds."""
    image = PurePath(file_name)
    if not image.stem.endswith(_SUFFIX) or not image.parent.name:
        raise ValueError(
            f"{file_name} is not named as images of Cityscapes are, .../<city>/<name>{_SUFFIX}.png,"
            " so its ground truth cannot be found"
        )
    name = f"{image.stem.removesuffix(_SUFFIX)}_gtFine_{kind}.png"
    return os.path.join(gt_dir, image.parent.name, name)


def _percent(
    means: Mapping[str, float], parts: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    single = {
        f"{title}-{name}": score
        for title, scores in parts.items()
        for name, score in scores.items()
    }
    return {name: 100 * score for name, score in {**means, **single}.items()}


def _label_ids(dataset_name: str, entry: str, names: Iterable[str]) -> list[int]:
    unknown = [name for name in names if name not in LABEL_OF_NAME]
    if unknown:
        raise ValueError(
            f"{entry} of {dataset_name} has {', '.join(unknown)}, but Cityscapes evaluates"
            f" {', '.join(LABEL_OF_NAME)}; correct the metadata, or its evaluator_type"
        )
    return [LABEL_OF_NAME[name].id for name in names]


def _read_ground_truth(
    evaluator: StreamingEvaluator, image: Mapping[str, Any], kind: str, size: tuple[int, ...]
) -> tuple[LabelMap, str]:
    """Return a ground-truth map of the given (height, width), and its file."""
    path = gt_path(evaluator.metadata.gt_dir, image_name(image), kind)
    if not PathManager.isfile(path):
        raise ValueError(
            f"{image_name(image)} has no ground truth: {path} does not exist. Correct gt_dir in the"
            f" metadata of {evaluator.dataset_name}; the test split has no public ground truth"
        )
    gt = read_label_png(path)
    check_sizes(image_name(image), size, gt.shape, path)
    return gt, path
