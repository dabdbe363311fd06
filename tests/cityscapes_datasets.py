"""Synthetic scenes under Cityscapes' names, and perfect predictions for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image

from freqfusion.data.preparation import prepare_cityscapes
from freqfusion.data.synthetic import write_cityscapes
from freqfusion.data.workers import PreparationOptions
from freqfusion.metrics import CITYSCAPES_LABELS

INSTANCE = "cityscapes_fine_instance_seg_val"
SEMANTIC = "cityscapes_fine_sem_seg_val"
PANOPTIC = "cityscapes_fine_panoptic_val"
SEPARATED = "cityscapes_fine_panoptic_separated_val"
THINGS = [label.name for label in CITYSCAPES_LABELS if label.has_instances]


def write(root, size=(64, 96)):
    """Four scenes of a val split, for ``rehearsed.registered_at``."""
    folder = Path(root, "cityscapes")
    write_cityscapes(folder, num_train=0, num_val=4, size=size, workers=1, progress=False)
    prepare_cityscapes(folder, PreparationOptions(1, progress=False))
    return Path(root)


def read(file_name, kind):
    """A truth map of an image: labelIds, labelTrainIds or instanceIds."""
    path = file_name.replace("/leftImg8bit/", "/gtFine/")
    return np.asarray(Image.open(path.replace("_leftImg8bit", f"_gtFine_{kind}"))).astype(np.int64)


def one_hot(labels, classes, shift=0):
    """The ``sem_seg`` of a label map moved to the right; void becomes class 1."""
    labels = np.roll(np.where(labels == 255, 1, labels), shift, axis=1)
    hot = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), classes)
    return hot.permute(2, 0, 1).float()


def instances(instance_ids, classes, shift=0):
    """Every true instance, moved to the right; the classes' names give their numbers."""
    moved = np.roll(instance_ids, shift, axis=1)
    found = [value for value in np.unique(instance_ids).tolist() if value >= 1000]
    names = {label.id: label.name for label in CITYSCAPES_LABELS}
    result = Instances(instance_ids.shape)
    masks = [torch.from_numpy(moved == value) for value in found]
    result.pred_masks = torch.stack(masks) if masks else torch.zeros(0, *moved.shape)
    result.pred_classes = torch.tensor([classes.index(names[value // 1000]) for value in found])
    result.scores = torch.tensor([1 / (2 + at) for at in range(len(found))])
    return result


def panoptic(instance_ids, metadata, shift=0):
    """The ``panoptic_seg`` of the truth, moved to the right; groups of things are void."""
    moved = np.roll(instance_ids, shift, axis=1)
    things = metadata.thing_dataset_id_to_contiguous_id
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    segments = []
    for value in np.unique(moved).tolist():
        number = value // 1000 if value >= 1000 else value
        if number == 0 or (number in things and value < 1000):
            moved[moved == value] = 0
            continue
        isthing = number in things
        category = things[number] if isthing else stuff[number]
        segments.append({"id": value, "category_id": category, "isthing": isthing})
    return torch.from_numpy(moved), segments


def predicted(name, image, shift=0):
    """The outputs for an image of a data set; panoptic segments where it has their categories."""
    metadata = MetadataCatalog.get(name)
    ids_of_image = read(image["file_name"], "instanceIds")
    if metadata.get("sem_seg_root") is None:
        labels = read(image["file_name"], "labelTrainIds")
    else:
        entries = {entry["file_name"]: entry for entry in DatasetCatalog.get(name)}
        labels = np.asarray(Image.open(entries[image["file_name"]]["sem_seg_file_name"]))
    output = {
        "sem_seg": one_hot(labels, len(metadata.stuff_classes), shift),
        "instances": instances(ids_of_image, metadata.thing_classes, shift),
    }
    if metadata.get("panoptic_json") is not None:
        output["panoptic_seg"] = panoptic(ids_of_image, metadata, shift)
    return output
