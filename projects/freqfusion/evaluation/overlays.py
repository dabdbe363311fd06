"""Draw the outputs of a Detectron2 model, the ground truth of its data set, and the difference.

``output_content`` and ``gt_content`` translate Detectron2's outputs and data set dicts to what
``freqfusion.drawing`` draws; both number classes alike, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from freqfusion.data.dataset_dicts import read_json
from freqfusion.data.reading import read_label_png, read_panoptic_png
from freqfusion.drawing import (
    VOID,
    Classes,
    Instance,
    LabelMap,
    PanopticMap,
    Picture,
    draw_instance_errors,
    draw_instances,
    draw_panoptic,
    draw_panoptic_errors,
    draw_semantic,
    draw_semantic_errors,
)
from freqfusion.drawing.content import Mask
from freqfusion.evaluation.panoptic import segments_of_labels

TASKS = ("semantic", "instance", "panoptic")


@dataclass(frozen=True)
class Content:
    """What there is to draw of one image, by task; None where a model or a data set has none."""

    semantic: LabelMap | None = None
    instance: tuple[Instance, ...] | None = None
    panoptic: PanopticMap | None = None

    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that have something."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) is not None)


def draw_output(
    image: Picture, output: Mapping[str, Any], metadata: Any, *, score_threshold: float = 0.5
) -> dict[str, Picture]:
    """Return a model's output for one RGB image, drawn over it, by task."""
    return draw_content(image, output_content(output, metadata, score_threshold=score_threshold))


def draw_content(image: Picture, content: Content) -> dict[str, Picture]:
    """Return each task's content, drawn over the image."""
    draw: dict[str, Callable[..., Picture]] = {
        "semantic": draw_semantic,
        "instance": draw_instances,
        "panoptic": draw_panoptic,
    }
    return {task: draw[task](image, getattr(content, task)) for task in content.tasks()}


def draw_differences(image: Picture, prediction: Content, gt: Content) -> dict[str, Picture]:
    """Return error maps of the tasks that both have."""
    draw: dict[str, Callable[..., Picture]] = {
        "semantic": draw_semantic_errors,
        "instance": draw_instance_errors,
        "panoptic": draw_panoptic_errors,
    }
    both = [task for task in prediction.tasks() if task in gt.tasks()]
    return {task: draw[task](image, getattr(prediction, task), getattr(gt, task)) for task in both}


def output_content(
    output: Mapping[str, Any], metadata: Any, *, score_threshold: float = 0.5
) -> Content:
    """Return a model's output for one image as content; drop instances below the threshold."""
    classes = Classes(metadata)
    semantic = instance = panoptic = None
    if "sem_seg" in output:
        scores = output["sem_seg"]
        if scores.ndim != 3:
            raise ValueError(
                f"sem_seg must be classes x height x width, not of shape {tuple(scores.shape)}"
            )
        semantic = classes.label_map(scores.argmax(dim=0).cpu().numpy(), len(scores))
    if "instances" in output:
        instance = tuple(_predicted(output["instances"].to("cpu"), classes, score_threshold))
    if "panoptic_seg" in output:
        ids, infos = output["panoptic_seg"]
        ids = ids.cpu().numpy()
        if infos is None:
            ids, infos = segments_of_labels(ids, metadata)
        panoptic = classes.panoptic(ids, infos)
    return Content(semantic, instance, panoptic)


def gt_content(dataset_dict: Mapping[str, Any], metadata: Any, size: tuple[int, ...]) -> Content:
    """Return the ground truth of one image of ``size`` (height, width) as content.

    The panoptic ground truth is that of the dict, or else the image's in the metadata's
    ``panoptic_json`` (as with Detectron2's separated data sets). Semantic labels and instances that
    the dict lacks are taken from it.
    """
    classes = Classes(metadata)
    panoptic = _panoptic_ground_truth(dataset_dict, metadata, classes)
    semantic = instance = None
    if "sem_seg_file_name" in dataset_dict:
        labels = read_label_png(dataset_dict["sem_seg_file_name"]).astype(np.int64)
        labels[labels == metadata.get("ignore_label", 255)] = VOID
        semantic = classes.label_map(labels)
    elif panoptic is not None:
        semantic = classes.labels_of(panoptic)
    if "annotations" in dataset_dict:
        annotations = dataset_dict["annotations"]
        instance = tuple(_annotated(one, classes, size) for one in annotations)
    elif panoptic is not None:
        instance = tuple(_things(panoptic))
    return Content(semantic, instance, panoptic)


def _predicted(instances: Any, classes: Classes, threshold: float) -> Iterable[Instance]:
    masks = instances.pred_masks.numpy() > 0 if instances.has("pred_masks") else None
    boxes = instances.pred_boxes.tensor.tolist() if instances.has("pred_boxes") else None
    labels, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    for at, (label, score) in enumerate(zip(labels, scores, strict=True)):
        if score < threshold:
            continue
        mask = None if masks is None else masks[at]
        # Mask2Former gives boxes of zeros where no box was requested.
        box = None if boxes is None or not any(boxes[at]) else tuple(boxes[at])
        instance = Instance(label, classes.thing(label), mask, box, score)
        yield instance if box else replace(instance, box=instance.extent())


def _things(panoptic: PanopticMap) -> Iterable[Instance]:
    for one in panoptic.segments:
        if one.is_thing:
            mask, crowd = panoptic.ids == one.id, one.is_crowd
            instance = Instance(one.category, one.name, mask, is_crowd=crowd)
            yield replace(instance, box=instance.extent())


def _annotated(annotation: Mapping[str, Any], classes: Classes, size: tuple[int, ...]) -> Instance:
    label = int(annotation["category_id"])
    shape = annotation.get("segmentation")
    mask = decode_mask(shape, size) if shape is not None and len(shape) else None
    box = None
    if "bbox" in annotation:
        sides = [float(side) for side in annotation["bbox"]]
        mode = annotation.get("bbox_mode", BoxMode.XYWH_ABS)
        left, top, right, bottom = BoxMode.convert(sides, BoxMode(mode), BoxMode.XYXY_ABS)
        box = (left, top, right, bottom)
    crowd = bool(annotation.get("iscrowd", 0))
    return Instance(label, classes.thing(label), mask, box, is_crowd=crowd)


def decode_mask(segmentation: Any, size: tuple[int, ...]) -> Mask:
    """Return the mask of COCO's polygons or run lengths (compressed or not), or of an array."""
    if isinstance(segmentation, np.ndarray):
        return segmentation > 0
    from pycocotools import mask as coco

    height, width = size
    if isinstance(segmentation, Mapping):
        runs: Any = dict(segmentation)
        if isinstance(runs["counts"], list):
            runs = coco.frPyObjects(runs, *runs["size"])
    else:
        runs = coco.merge(coco.frPyObjects(list(segmentation), height, width))
    return np.asarray(coco.decode(runs), dtype=np.bool_)


def _panoptic_ground_truth(
    dataset_dict: Mapping[str, Any], metadata: Any, classes: Classes
) -> PanopticMap | None:
    if "pan_seg_file_name" in dataset_dict:
        ids = read_panoptic_png(dataset_dict["pan_seg_file_name"])
        return classes.panoptic(ids, dataset_dict["segments_info"])
    path, number = metadata.get("panoptic_json"), dataset_dict.get("image_id")
    if path is None or number is None or not PathManager.isfile(path):
        return None
    entry = _entries(path).get(number)
    if entry is None:
        return None
    things, stuff = (
        metadata.get(f"{kind}_dataset_id_to_contiguous_id") or {} for kind in ("thing", "stuff")
    )
    infos = []
    for info in entry["segments_info"]:
        own = info["category_id"]
        label = things.get(own, stuff.get(own))
        if label is None:
            raise ValueError(f"{path}: segment {info['id']} has the unknown category {own}")
        infos.append(dict(info, category_id=label, isthing=own in things))
    return classes.panoptic(
        read_panoptic_png(Path(metadata.panoptic_root) / entry["file_name"]), infos
    )


@lru_cache(maxsize=2)
def _entries(path: str) -> dict[Any, Mapping[str, Any]]:
    return {entry["image_id"]: entry for entry in read_json(path)["annotations"]}
