"""Which evaluators a data set gets, by the ``evaluator_type`` of its metadata."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators

from freqfusion.data.bad_samples import BadSample, SkippedImages
from freqfusion.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesSemanticEvaluator,
)
from freqfusion.evaluation.panoptic import PanopticEvaluator
from freqfusion.evaluation.semantic import SemanticEvaluator
from freqfusion.evaluation.streaming import dataset_metadata


class SkippingEvaluator(DatasetEvaluator):
    """Any evaluator, whose scores are those of the images that were not left out.

    Args:
        evaluator: What scores; one that lists images by itself gets those to skip.
        skipped_images: Counts what the loader leaves out; all of it is in ``skipped`` after
            ``evaluate``.
    """

    def __init__(self, evaluator: DatasetEvaluator, skipped_images: SkippedImages) -> None:
        self.evaluator, self.skipped_images = evaluator, skipped_images
        self.skipped: dict[str, BadSample] = {}

    def reset(self) -> None:
        """Begin a new round."""
        self.skipped = {}
        self.evaluator.reset()

    def process(
        self, inputs: Iterable[Mapping[str, Any]], outputs: Iterable[Mapping[str, Any]]
    ) -> None:
        """Count a batch."""
        self.evaluator.process(inputs, outputs)

    def evaluate(self) -> Any:
        """Return the scores; BadSampleError if all processes left out too many images."""
        self.skipped = self.skipped_images.gathered()
        numbers = [bad.image_id for bad in self.skipped.values()]
        for part in _parts(self.evaluator):
            if isinstance(part, InstanceEvaluator):
                part.leave_out(numbers)
        return self.evaluator.evaluate()


def _parts(evaluator: DatasetEvaluator) -> list[DatasetEvaluator]:
    return evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]


class InstanceEvaluator(COCOEvaluator):
    """``COCOEvaluator`` whose class names are those of the things.

    Metadata of one label space lists things and stuff as ``thing_classes``, while the categories of
    the instances are the things alone, which come first.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        *,
        output_dir: str | None = None,
        keypoint_sigmas: Sequence[float] = (),
    ) -> None:
        super().__init__(dataset_name, tasks, output_dir=output_dir, kpt_oks_sigmas=keypoint_sigmas)
        self._metadata: Any = of_things(MetadataCatalog.get(dataset_name))
        self._left_out: frozenset[Any] = frozenset()

    def leave_out(self, image_ids: Collection[Any]) -> None:
        """Score the other images only: without a prediction all objects would count as missed."""
        self._left_out = frozenset(image_ids)

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> Any:
        """Return the scores of all images but those left out, or of the images given."""
        if img_ids is None and self._left_out:
            img_ids = [n for n in self._coco_api.getImgIds() if n not in self._left_out]
        return super().evaluate(img_ids=img_ids)


def of_things(metadata: Any) -> Any:
    """Return the metadata, or a copy whose ``thing_classes`` are the things only."""
    names = metadata.get("thing_classes")
    numbers = metadata.get("thing_dataset_id_to_contiguous_id")
    if names is None or numbers is None or len(names) == len(numbers):
        return metadata
    things = [names[number] for number in sorted(numbers.values())]
    return Metadata(**(metadata.as_dict() | {"thing_classes": things}))


logger = logging.getLogger(__name__)


def _instances(cfg: CfgNode | None, name: str, output_dir: str | None) -> DatasetEvaluator:
    """Return the evaluator of box, mask and keypoint AP."""
    if cfg is None:
        return InstanceEvaluator(name, output_dir=output_dir)
    # Detectron2 would guess the tasks from the predictions, and a model without any has no masks.
    tasks: tuple[str, ...] = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    if cfg.MODEL.KEYPOINT_ON:
        tasks += ("keypoints",)
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    return InstanceEvaluator(name, tasks, output_dir=output_dir, keypoint_sigmas=sigmas)


# (what to evaluate, the entry of the metadata without which it is left out) for each type.
EVALUATORS: dict[str, tuple[tuple[type[DatasetEvaluator], str | None], ...]] = {
    "cityscapes_instance": ((CityscapesInstanceEvaluator, None),),
    "cityscapes_panoptic_seg": (
        (CityscapesInstanceEvaluator, "gt_dir"),
        (CityscapesSemanticEvaluator, "gt_dir"),
        (PanopticEvaluator, None),
    ),
    # Labels for a Panoptic FPN, where all things are one class, are not Cityscapes' 19.
    "cityscapes_panoptic_separated": (
        (CityscapesInstanceEvaluator, "gt_dir"),
        (SemanticEvaluator, "sem_seg_root"),
        (PanopticEvaluator, None),
    ),
    "cityscapes_sem_seg": ((CityscapesSemanticEvaluator, None),),
    "coco": ((InstanceEvaluator, None),),
    "coco_panoptic_seg": (
        (InstanceEvaluator, "json_file"),
        (SemanticEvaluator, "stuff_classes"),
        (PanopticEvaluator, None),
    ),
    "sem_seg": ((SemanticEvaluator, None),),
}


def build_evaluator(
    cfg: CfgNode | None, dataset_name: str, output_dir: str | None = None
) -> DatasetEvaluator:
    """Return the evaluator of a data set, or several in one; ValueError for an unknown type.

    A part whose ground truth the metadata does not name is left out, with one line in the log.
    ``cfg`` has the sigmas of keypoints, and says whether panoptic predictions are written.
    """
    metadata = dataset_metadata(dataset_name, ("evaluator_type",))
    kind = metadata.evaluator_type
    if kind not in EVALUATORS:
        raise ValueError(
            f"{dataset_name} has the evaluator_type {kind!r}. Known are"
            f" {', '.join(sorted(EVALUATORS))}; set it with"
            f" MetadataCatalog.get({dataset_name!r}).evaluator_type"
        )
    evaluators = [
        _evaluator(part, cfg, dataset_name, output_dir)
        for part, entry in EVALUATORS[kind]
        if entry is None or _has(dataset_name, entry)
    ]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _evaluator(
    kind: type[DatasetEvaluator], cfg: CfgNode | None, dataset_name: str, output_dir: str | None
) -> DatasetEvaluator:
    if kind is InstanceEvaluator:
        return _instances(cfg, dataset_name, output_dir)
    if kind is PanopticEvaluator and cfg is not None and cfg.TEST.WRITE_PANOPTIC:
        return PanopticEvaluator(dataset_name, output_dir, write_predictions=True)
    return kind(dataset_name, output_dir)


def _has(dataset_name: str, entry: str) -> bool:
    value: Any = MetadataCatalog.get(dataset_name).get(entry)
    if value is None:
        logger.info("%s has no %s: the scores that need it are left out", dataset_name, entry)
    return value is not None
