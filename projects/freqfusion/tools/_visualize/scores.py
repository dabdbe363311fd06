"""Scores of one image, by task, in percent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from freqfusion.drawing import Instance, LabelMap, PanopticMap, match_instances
from freqfusion.metrics import ConfusionMatrix, PanopticQuality

if TYPE_CHECKING:
    from freqfusion.evaluation.pictures import Content

Scores = dict[str, float]

# The score by which the images of a task are put in order.
MAIN_SCORE = {"semantic": "mIoU", "instance": "F1", "panoptic": "PQ"}


def image_scores(prediction: Content, truth: Content) -> dict[str, Scores]:
    """Scores of the tasks that both have; nan stands for a task without anything to compare."""
    scores = {}
    if prediction.semantic is not None and truth.semantic is not None:
        scores["semantic"] = semantic_scores(prediction.semantic, truth.semantic)
    if prediction.instance is not None and truth.instance is not None:
        scores["instance"] = instance_scores(prediction.instance, truth.instance)
    if prediction.panoptic is not None and truth.panoptic is not None:
        scores["panoptic"] = panoptic_scores(prediction.panoptic, truth.panoptic)
    return scores


def semantic_scores(prediction: LabelMap, truth: LabelMap) -> Scores:
    """MIoU over the classes in the image's truth or prediction, and pixel accuracy."""
    classes = max(len(prediction.names), len(truth.names))
    confusion = ConfusionMatrix(classes, ignore_label=-1)
    confusion.update(prediction.labels, truth.labels)
    return {"mIoU": 100 * confusion.mean_iou(), "pixels": 100 * confusion.pixel_accuracy()}


def instance_scores(prediction: tuple[Instance, ...], truth: tuple[Instance, ...]) -> Scores:
    """Precision, recall and F1 of the drawn predictions at mask IoU 1/2."""
    found = match_instances(prediction, truth)
    right, wrong, missed = len(found.matched), len(found.spurious), len(found.missed)
    return {
        "F1": _percent(2 * right, 2 * right + wrong + missed),
        "precision": _percent(right, right + wrong),
        "recall": _percent(right, right + missed),
    }


def panoptic_scores(prediction: PanopticMap, truth: PanopticMap) -> Scores:
    """PQ, SQ and RQ over the categories in the image's truth or prediction."""
    kinds = {one.category: one.is_thing for one in (*prediction.segments, *truth.segments)}
    if not kinds:
        return dict.fromkeys(("PQ", "SQ", "RQ"), math.nan)
    quality = PanopticQuality([{"id": number, "isthing": kind} for number, kind in kinds.items()])
    guess, real = (
        [
            {"id": one.id, "category_id": one.category, "iscrowd": int(one.is_crowd)}
            for one in content.segments
        ]
        for content in (prediction, truth)
    )
    quality.update(np.asarray(prediction.ids), guess, np.asarray(truth.ids), real)
    group = quality.result().groups["All"]
    return {"PQ": 100 * group.pq, "SQ": 100 * group.sq, "RQ": 100 * group.rq}


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else math.nan
