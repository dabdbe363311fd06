"""Our Cityscapes numbers against recorded ones of the original evaluation."""

from __future__ import annotations

import numpy as np

from freqfusion.metrics import CityscapesInstances, CityscapesSemantic

LEVELS = {
    "classScores": ("class_iou", "averageScoreClasses", "IoU"),
    "classInstScores": ("class_iiou", "averageScoreInstClasses", "iIoU"),
    "categoryScores": ("group_iou", "averageScoreCategories", "IoU_sup"),
    "categoryInstScores": ("group_iiou", "averageScoreInstCategories", "iIoU_sup"),
}


def counted(images, *, semantic=None, instances=None):
    """Both metrics after these images."""
    semantic = semantic or CityscapesSemantic()
    instances = instances or CityscapesInstances()
    for image in images:
        semantic.update(image.prediction, image.label_ids, image.instance_ids)
        instances.update(image.masks, image.labels, image.scores, image.instance_ids)
    return semantic, instances


def pairs(images, original):
    """(name, ours, the original's) of every number; the original's None (nan) as nan."""
    semantic, instances = counted(images)
    result = semantic.result()
    for key, (name, mean_key, mean) in LEVELS.items():
        ours = getattr(result, name)
        for label, value in original["semantic"][key].items():
            yield f"{key} {label}", ours.get(label, np.nan), value
        yield mean_key, result.means()[mean], original["semantic"][mean_key]
    theirs = original["instances"]
    if theirs is None:
        return
    found = instances.result()
    for row, label, values in zip(
        instances.average_precision(), theirs["of"], theirs["matrix"], strict=True
    ):
        yield from ((f"AP {label}", *pair) for pair in zip(row, values, strict=True))
        yield f"AP {label}", found.ap[label], theirs["classes"][label]["ap"]
        yield f"AP50 {label}", found.ap50[label], theirs["classes"][label]["ap50%"]
    yield "AP", found.means()["AP"], theirs["allAp"]
    yield "AP50", found.means()["AP50"], theirs["allAp50%"]


def largest_difference(images, original):
    """Largest absolute difference; infinite where one side is nan and the other not."""
    worst = 0.0
    for _, ours, theirs in pairs(images, original):
        theirs = np.nan if theirs is None else theirs
        if np.isnan(ours) != np.isnan(theirs):
            return np.inf
        worst = max(worst, 0.0 if np.isnan(ours) else abs(ours - theirs))
    return worst
