"""Which evaluators a data set gets, by the ``evaluator_type`` of its metadata."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from freqfusion.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesSemanticEvaluator,
)
from freqfusion.evaluation.instances import InstanceEvaluator
from freqfusion.evaluation.panoptic import PanopticEvaluator
from freqfusion.evaluation.semantic import SemanticEvaluator
from freqfusion.evaluation.streaming import dataset_metadata

logger = logging.getLogger(__name__)

Maker = Callable[[CfgNode | None, str, str | None], DatasetEvaluator]


def _instances(cfg: CfgNode | None, name: str, output_dir: str | None) -> DatasetEvaluator:
    """Detectron2's box, mask and keypoint AP."""
    if cfg is None:
        return InstanceEvaluator(name, output_dir=output_dir)
    # Detectron2 would guess the tasks from the predictions, and a model without any has no masks.
    tasks: tuple[str, ...] = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    if cfg.MODEL.KEYPOINT_ON:
        tasks += ("keypoints",)
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    return InstanceEvaluator(name, tasks, output_dir=output_dir, keypoint_sigmas=sigmas)


def _semantic(cfg: CfgNode | None, name: str, output_dir: str | None) -> DatasetEvaluator:
    return SemanticEvaluator(name, output_dir)


def _panoptic(cfg: CfgNode | None, name: str, output_dir: str | None) -> DatasetEvaluator:
    return PanopticEvaluator(name, output_dir)


def _city_instances(cfg: CfgNode | None, name: str, output_dir: str | None) -> DatasetEvaluator:
    return CityscapesInstanceEvaluator(name, output_dir)


def _city_semantic(cfg: CfgNode | None, name: str, output_dir: str | None) -> DatasetEvaluator:
    return CityscapesSemanticEvaluator(name, output_dir)


# (what to evaluate, the entry of the metadata without which it is left out) for each type.
EVALUATORS: dict[str, tuple[tuple[Maker, str | None], ...]] = {
    "cityscapes_instance": ((_city_instances, None),),
    "cityscapes_panoptic_seg": (
        (_city_instances, "gt_dir"),
        (_city_semantic, "gt_dir"),
        (_panoptic, None),
    ),
    # Labels for a Panoptic FPN, where all things are one class, are not Cityscapes' 19.
    "cityscapes_panoptic_separated": (
        (_city_instances, "gt_dir"),
        (_semantic, "sem_seg_root"),
        (_panoptic, None),
    ),
    "cityscapes_sem_seg": ((_city_semantic, None),),
    "coco": ((_instances, None),),
    "coco_panoptic_seg": (
        (_instances, "json_file"),
        (_semantic, "stuff_classes"),
        (_panoptic, None),
    ),
    "sem_seg": ((_semantic, None),),
}


def build_evaluator(
    cfg: CfgNode | None, dataset_name: str, output_dir: str | None = None
) -> DatasetEvaluator:
    """The evaluator of a registered data set, or several in one; ValueError for an unknown type.

    A part whose truth the metadata does not name is left out, with one line in the log. ``cfg`` is
    needed for keypoints only: it has their sigmas.
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
        make(cfg, dataset_name, output_dir)
        for make, entry in EVALUATORS[kind]
        if entry is None or _has(dataset_name, entry)
    ]
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def _has(dataset_name: str, entry: str) -> bool:
    value: Any = MetadataCatalog.get(dataset_name).get(entry)
    if value is None:
        logger.info("%s has no %s: the scores that need it are left out", dataset_name, entry)
    return value is not None
