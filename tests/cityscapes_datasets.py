"""Synthetic scenes in Cityscapes layout, registered as Detectron2 registers Cityscapes.

``register`` needs nothing but the folder, so that a second process can register the same data sets.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_semantic
from detectron2.data.datasets.cityscapes_panoptic import load_cityscapes_panoptic
from detectron2.structures import Instances
from PIL import Image

from freqfusion.data.synthetic import write_cityscapes
from freqfusion.metrics import CITYSCAPES_LABELS

NAMES = [label.name for label in CITYSCAPES_LABELS]
THINGS = [label.name for label in CITYSCAPES_LABELS if label.has_instances]
STUFF = [label for label in CITYSCAPES_LABELS if not label.has_instances]
KINDS = {
    "towns_instance": "cityscapes_instance",
    "towns_sem_seg": "cityscapes_sem_seg",
    "towns_panoptic": "cityscapes_panoptic_seg",
    "towns_separated": "cityscapes_panoptic_separated",
}


def write(root, images=4, size=(64, 96)):
    """Four scenes of a val split, with label maps for a Panoptic FPN (0 is any thing)."""
    write_cityscapes(root, num_train=0, num_val=images, size=size, workers=1, progress=False)
    table = np.full(256, 255, dtype=np.uint8)
    table[: len(NAMES)] = [0 if name in THINGS else 1 + at for at, name in enumerate(NAMES)]
    for path in Path(root, "gtFine/val").rglob("*_labelTrainIds.png"):
        folder = Path(root, "stuff_val", path.parent.name)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(table[np.asarray(Image.open(path))]).save(folder / path.name)
    return Path(root)


def register(root):
    """The four data sets of ``KINDS``."""
    images, truth = f"{root}/leftImg8bit/val/", f"{root}/gtFine/val/"
    plain = {"image_dir": images, "gt_dir": truth, "thing_classes": THINGS, "stuff_classes": NAMES}
    DatasetCatalog.register("towns_instance", lambda: list_images(images))
    MetadataCatalog.get("towns_instance").set(**plain)
    DatasetCatalog.register("towns_sem_seg", lambda: load_cityscapes_semantic(images, truth))
    MetadataCatalog.get("towns_sem_seg").set(**plain, ignore_label=255)
    register_panoptic(root, images, truth)
    for name, kind in KINDS.items():
        MetadataCatalog.get(name).set(evaluator_type=kind)


def register_panoptic(root, images, truth):
    maps = f"{root}/gtFine/cityscapes_panoptic_val"
    files = {"panoptic_root": maps, "panoptic_json": f"{maps}.json", "gt_dir": truth}
    joint = {
        "thing_classes": NAMES,
        "stuff_classes": NAMES,
        "thing_dataset_id_to_contiguous_id": ids(lambda label: label.has_instances),
        "stuff_dataset_id_to_contiguous_id": ids(lambda label: not label.has_instances),
    }
    separated = {
        "thing_classes": THINGS,
        "stuff_classes": ["things", *(label.name for label in STUFF)],
        "thing_dataset_id_to_contiguous_id": {
            label.id: THINGS.index(label.name) for label in CITYSCAPES_LABELS if label.has_instances
        },
        "stuff_dataset_id_to_contiguous_id": {0: 0}
        | {label.id: 1 + at for at, label in enumerate(STUFF)},
        "sem_seg_root": f"{root}/stuff_val",
    }
    DatasetCatalog.register(
        "towns_panoptic",
        lambda: load_cityscapes_panoptic(images, maps, f"{maps}.json", joint),
    )
    MetadataCatalog.get("towns_panoptic").set(
        **files, **joint, image_root=images, ignore_label=255, label_divisor=1000
    )
    DatasetCatalog.register("towns_separated", lambda: list_separated(root, images))
    MetadataCatalog.get("towns_separated").set(
        **files, **separated, image_root=images, ignore_label=255
    )


def remove():
    for name in KINDS:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def ids(keep):
    return {label.id: label.train_id for label in CITYSCAPES_LABELS if keep(label)}


def list_images(folder):
    return [{"file_name": str(path)} for path in sorted(Path(folder).rglob("*_leftImg8bit.png"))]


def list_separated(root, images):
    entries = []
    for entry in list_images(images):
        path = Path(entry["file_name"])
        name = path.name.removesuffix("_leftImg8bit.png")
        label_file = f"{root}/stuff_val/{path.parent.name}/{name}_gtFine_labelTrainIds.png"
        entries.append({**entry, "image_id": name, "sem_seg_file_name": label_file})
    return entries


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
