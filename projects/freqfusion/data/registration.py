"""Data sets of this project in Detectron2's catalogues.

Importing Detectron2 registers COCO, Cityscapes and ADE20K under ``DETECTRON2_DATASETS``. Here
Cityscapes' instances get a loader that works, and the synthetic scenes, Cityscapes for a Panoptic
FPN, CamVid and what YAML files declare are added. Files are looked for when a data set is first
used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco_panoptic import merge_to_panoptic

from freqfusion.data.categories import (
    CITYSCAPES_CATEGORIES,
    joint_metadata,
    panoptic_fpn_metadata,
)
from freqfusion.data.dataset_dicts import (
    load_cityscapes,
    load_instances,
    load_panoptic,
    load_semantic,
    load_separated_cityscapes,
)
from freqfusion.data.declared import Declaration, read_declaration
from freqfusion.data.synthetic.categories import SPLITS as SCENE_SPLITS
from freqfusion.data.synthetic.categories import panoptic_metadata, separated_metadata
from freqfusion.metrics.cityscapes_labels import INSTANCE_LABELS

SPLITS = ("train", "val")
# The 11 classes of CamVid as the SegNet tutorial has them, in the order of their labels.
_CAMVID_COLORS = {
    "sky": [128, 128, 128],
    "building": [128, 0, 0],
    "pole": [192, 192, 128],
    "road": [128, 64, 128],
    "pavement": [60, 40, 222],
    "tree": [128, 128, 0],
    "sign": [192, 128, 128],
    "fence": [64, 64, 128],
    "car": [64, 0, 128],
    "pedestrian": [64, 64, 0],
    "bicyclist": [0, 128, 192],
}
_CAMVID_THIN = ["pole", "sign", "fence", "pedestrian", "bicyclist"]

Loader = Callable[[], list[dict[str, Any]]]


def datasets_root() -> Path:
    """Return ``DETECTRON2_DATASETS``, by default ``datasets``."""
    return Path(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))


def register_datasets(declared: Iterable[str] = ()) -> None:
    """Register this project's data sets, and those of declarations; a second call does nothing."""
    root = datasets_root()
    register_synthetic(root / "synthetic")
    register_cityscapes(root / "cityscapes")
    register_camvid(root / "camvid")
    for path in declared:
        register_declared(read_declaration(path))


def register_synthetic(folder: Path) -> None:
    """Register what ``freqfusion.tools.synthesize`` wrote to ``folder`` in COCO layout.

    ``synthetic_instances_*``; ``synthetic_panoptic_*_separated`` with instances, labels for a
    Panoptic FPN (things are one class) and panoptic ground truth; ``synthetic_semantic_*`` with all
    classes in one label map; ``synthetic_panoptic_*`` with one label space. The splits are train,
    val and tune; the metadata's ``thin_classes`` names what is thin.
    """
    joint, separated = panoptic_metadata(), separated_metadata()
    ignored, thin = joint.pop("ignore_label"), separated["thin_classes"]
    for split in SCENE_SPLITS:
        paths = {
            "images": str(folder / split),
            "instances": str(folder / "annotations" / f"instances_{split}.json"),
            "panoptic": str(folder / f"panoptic_{split}"),
            "panoptic_json": str(folder / "annotations" / f"panoptic_{split}.json"),
            "stuff": str(folder / f"panoptic_stuff_{split}"),
            "semantic": str(folder / f"panoptic_semseg_{split}"),
        }
        names = {
            "instances": f"synthetic_instances_{split}",
            "semantic": f"synthetic_semantic_{split}",
            "panoptic": f"synthetic_panoptic_{split}",
            "panoptic_separated": f"synthetic_panoptic_{split}_separated",
        }
        for name in add_split(names, paths, joint, separated, ignored):
            MetadataCatalog.get(name).set(thin_classes=thin)


def register_cityscapes(folder: Path) -> None:
    """Give Cityscapes' instances a loader that works, and add it in the form of Panoptic FPN.

    ``cityscapes_fine_panoptic_separated_*``: instances, and 11 classes of stuff after "things".
    """
    colors = [list(label.color) for label in INSTANCE_LABELS]
    for split in SPLITS:
        name = f"cityscapes_fine_instance_seg_{split}"
        metadata = MetadataCatalog.get(name)
        metadata.set(thing_colors=colors)
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
        load = partial(load_cityscapes, metadata.image_dir, metadata.gt_dir)
        DatasetCatalog.register(name, load)
        _add_separated_cityscapes(split, folder)


def _add_separated_cityscapes(split: str, folder: Path) -> None:
    images, gt = str(folder / "leftImg8bit" / split), str(folder / "gtFine" / split)
    stuff = str(folder / "gtFine" / f"cityscapes_stuff_{split}")
    panoptic = str(folder / "gtFine" / f"cityscapes_panoptic_{split}")
    _add(
        f"cityscapes_fine_panoptic_separated_{split}",
        partial(load_separated_cityscapes, images, gt, stuff, panoptic),
        "cityscapes_panoptic_separated",
        {
            "image_dir": images,
            "image_root": images,
            "gt_dir": gt,
            "panoptic_root": panoptic,
            "panoptic_json": f"{panoptic}.json",
            "sem_seg_root": stuff,
            "ignore_label": 255,
            **panoptic_fpn_metadata(CITYSCAPES_CATEGORIES),
        },
    )


def register_camvid(folder: Path) -> None:
    """Register ``camvid_{train,val,trainval,test}``; ``thin_classes`` names thin and small ones."""
    metadata = {
        "stuff_classes": list(_CAMVID_COLORS),
        "stuff_colors": list(_CAMVID_COLORS.values()),
        "thin_classes": _CAMVID_THIN,
    }
    for split in ("train", "val", "test"):
        labels = folder / "annotations_detectron2" / split
        paths = {"images": str(folder / split), "semantic": str(labels)}
        add_semantic(f"camvid_{split}", paths, metadata, 255)
    _add(
        "camvid_trainval",
        lambda: DatasetCatalog.get("camvid_train") + DatasetCatalog.get("camvid_val"),
        "sem_seg",
        {"ignore_label": 255, **metadata},
    )


def register_declared(declaration: Declaration) -> list[str]:
    """Register every split of a declaration; the names, see ``freqfusion.data.declared``."""
    classes, added = declaration.classes, []
    joint, separated = joint_metadata(classes), panoptic_fpn_metadata(classes)
    for split, paths in declaration.splits.items():
        kinds = ("instances", "semantic", "panoptic", "panoptic_separated")
        names = {kind: f"{declaration.name}_{split}_{kind}" for kind in kinds}
        added += add_split(names, paths, joint, separated, declaration.ignore_label)
    return added


def add_split(
    names: Mapping[str, str],
    paths: Mapping[str, str],
    joint: Mapping[str, Any],
    separated: Mapping[str, Any],
    ignore_label: int,
) -> list[str]:
    """Register a split in each form that it has the files for, and return the names of these.

    Args:
        names: The name of each form: instances, semantic, panoptic, panoptic_separated.
        paths: Files and folders: images, instances, semantic, panoptic, panoptic_json, stuff.
        joint: Metadata of one label space.
        separated: Metadata of a Panoptic FPN.
        ignore_label: The label that is no class.
    """
    added = []
    if "instances" in paths:
        things = {key: value for key, value in separated.items() if key.startswith("thing")}
        added.append(add_instances(names["instances"], paths, things))
    if "semantic" in paths:
        known = ("stuff_classes", "stuff_colors")
        stuff = {key: value for key, value in joint.items() if key in known}
        added.append(add_semantic(names["semantic"], paths, stuff, ignore_label))
    if "panoptic" in paths:
        added.append(add_panoptic(names["panoptic"], paths, joint, ignore_label))
    if {"panoptic", "stuff", "instances"} <= set(paths):
        name = names["panoptic_separated"]
        added.append(add_separated(name, paths, separated, ignore_label))
    return added


def add_instances(name: str, paths: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Register instances of a COCO JSON; return the name."""
    load = partial(load_instances, paths["instances"], paths["images"], name)
    files = {"image_root": paths["images"], "json_file": paths["instances"]}
    return _add(name, load, "coco", files | dict(metadata))


def add_semantic(
    name: str, paths: Mapping[str, str], metadata: Mapping[str, Any], ignore_label: int
) -> str:
    """Register images and label PNGs of the same names; return the name."""
    load = partial(load_semantic, paths["images"], paths["semantic"])
    files = {"image_root": paths["images"], "sem_seg_root": paths["semantic"]}
    return _add(name, load, "sem_seg", {"ignore_label": ignore_label, **files, **metadata})


def add_panoptic(
    name: str, paths: Mapping[str, str], metadata: Mapping[str, Any], ignore_label: int
) -> str:
    """Register panoptic ground truth with one label space; return the name."""
    arguments = paths["panoptic_json"], paths["images"], paths["panoptic"], metadata
    load = partial(load_panoptic, *arguments, paths.get("semantic"))
    entries = {"label_divisor": 1000, **_panoptic_files(paths, ignore_label), **metadata}
    for entry, key in (("sem_seg_root", "semantic"), ("json_file", "instances")):
        if key in paths:
            entries[entry] = paths[key]
    return _add(name, load, "coco_panoptic_seg", entries)


def add_separated(
    name: str, paths: Mapping[str, str], metadata: Mapping[str, Any], ignore_label: int
) -> str:
    """Register instances, stuff maps and panoptic ground truth of a Panoptic FPN."""

    def load() -> list[dict[str, Any]]:
        instances = load_instances(paths["instances"], paths["images"], name)
        stuff = load_semantic(paths["images"], paths["stuff"])
        return list(merge_to_panoptic(instances, stuff))

    files = {"sem_seg_root": paths["stuff"], "json_file": paths["instances"]}
    entries = {**_panoptic_files(paths, ignore_label), **files, **metadata}
    return _add(name, load, "coco_panoptic_seg", entries)


def _panoptic_files(paths: Mapping[str, str], ignore_label: int) -> dict[str, Any]:
    return {
        "ignore_label": ignore_label,
        "image_root": paths["images"],
        "panoptic_root": paths["panoptic"],
        "panoptic_json": paths["panoptic_json"],
    }


def _add(name: str, load: Loader, evaluator_type: str, metadata: Mapping[str, Any]) -> str:
    """Register a loader with its metadata, unless the name is taken."""
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).set(evaluator_type=evaluator_type, **metadata)
    return name
