"""Check class counts of a configuration and whether files are there; no image is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from freqfusion.data.validation.issues import DatasetIssue, error, remedy
from freqfusion.messages import did_you_mean

ROI = "MODEL.ROI_HEADS.NUM_CLASSES"
RETINANET = "MODEL.RETINANET.NUM_CLASSES"
SEMANTIC = "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
IGNORED = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE"

_KIND = "class count that differs"

# The files of each image that loader and evaluators of each evaluator_type read.
KINDS = {
    "cityscapes_instance": ("instanceIds",),
    "cityscapes_sem_seg": ("labelTrainIds", "labelIds", "instanceIds", "polygons"),
    "cityscapes_panoptic_seg": ("labelTrainIds", "labelIds", "instanceIds"),
    "cityscapes_panoptic_separated": ("instanceIds",),
}

# Which keys count classes, and of which list of the metadata.
COUNTS: dict[str, tuple[tuple[str, str], ...]] = {
    "GeneralizedRCNN": ((ROI, "thing_classes"),),
    "PanopticFPN": ((ROI, "thing_classes"), (SEMANTIC, "stuff_classes")),
    "RetinaNet": ((RETINANET, "thing_classes"),),
    "SemanticSegmentor": ((SEMANTIC, "stuff_classes"),),
    "PanopticDeepLab": ((SEMANTIC, "stuff_classes"),),
}
_FILES = {"json_file": "the instances", "panoptic_json": "the panoptic segments"}
_FOLDERS = {
    "image_root": "the images",
    "image_dir": "the images",
    "panoptic_root": "the panoptic PNGs",
    "sem_seg_root": "the semantic labels",
    "gt_dir": "the labels",
}
_ROOT = "; DETECTRON2_DATASETS names the folder of all data sets"


def metadata_of(name: str) -> dict[str, Any]:
    """Return a registered data set's metadata; ValueError, with similar names, for another."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    known = DatasetCatalog.list()
    if name not in known:
        advice = did_you_mean(name, known) or "; register it (see freqfusion.data.registration)"
        raise ValueError(f"no data set is registered as {name!r}{advice}")
    return dict(MetadataCatalog.get(name).as_dict())


def check_classes(cfg: Any, dataset_names: Sequence[str]) -> list[DatasetIssue]:
    """Find class counts that do not fit, and data sets that do not fit one another.

    Args:
        cfg: a Detectron2 configuration.
        dataset_names: registered data sets. A name that is not registered is a finding too.

    An architecture that is not known here has its counts left unchecked. Class names that the
    metadata lacks, as before an own JSON is loaded, are left unchecked too.
    """
    issues = []
    known: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(dataset_names):
        try:
            known[name] = metadata_of(name)
        except ValueError as reason:
            issues.append(
                error("unknown data set", "DATASETS", str(reason), "names of registered data sets")
            )
    for name, metadata in known.items():
        for use in _uses(cfg):
            issues += _count_issues(name, metadata, use, is_trained_on(cfg, name))
        issues += _ignore_issues(cfg, name, metadata)
    return issues + _name_issues(known)


def is_trained_on(cfg: Any, name: str) -> bool:
    """Whether a data set is for training; so is one that the configuration does not name."""
    return name in cfg.DATASETS.TRAIN or name not in cfg.DATASETS.TEST


def counts_labels(cfg: Any) -> bool:
    """Whether the model learns label maps, with ``MODEL.SEM_SEG_HEAD.NUM_CLASSES`` classes."""
    return any(key == SEMANTIC for key, _, _ in _uses(cfg))


def _uses(cfg: Any) -> list[tuple[str, int, str]]:
    """Return each key that counts classes, its value, and the list of the metadata it counts."""
    from freqfusion.config import inner_architecture, value_of

    architecture = inner_architecture(cfg)
    pairs = COUNTS.get(architecture, ())
    if architecture == "Mask2Former":
        # Its classes are those of the targets; with panoptic ones things and stuff are one list.
        of_things = tuple(cfg.INPUT.TARGETS) == ("instances",)
        pairs = ((SEMANTIC, "thing_classes" if of_things else "stuff_classes"),)
    return [(key, value_of(cfg, key), classes) for key, classes in pairs]


def _count_issues(
    name: str, metadata: Mapping[str, Any], use: tuple[str, int, str], trained: bool
) -> list[DatasetIssue]:
    key, value, classes = use
    names = metadata.get(classes)
    if names is None:
        if classes == "stuff_classes" and trained:
            found = f"a semantic head is trained on {name}, which has no stuff_classes"
            return [error(_KIND, key, found, "a data set with semantic labels")]
        return []
    if classes == "thing_classes" and _is_one_label_space(metadata):
        found = f"counts the things of {name}, whose things and stuff share one label space"
        return [error(_KIND, key, found, "a data set whose things have labels of their own")]
    if value == len(names):
        return []
    found = f"is {value}, but {name} has {len(names)} {classes}"
    return [error(_KIND, key, found, str(len(names)))]


def _is_one_label_space(metadata: Mapping[str, Any]) -> bool:
    """Whether the labels of things are not 0, 1, ... without a gap for each thing class."""
    labels = metadata.get("thing_dataset_id_to_contiguous_id")
    return labels is not None and len(set(labels.values())) < len(metadata["thing_classes"])


def _ignore_issues(cfg: Any, name: str, metadata: Mapping[str, Any]) -> list[DatasetIssue]:
    ignored = metadata.get("ignore_label")
    stuff = metadata.get("stuff_classes")
    if ignored is None or stuff is None or not counts_labels(cfg):
        return []
    issues = []
    if 0 <= ignored < len(stuff):
        found = f"{name} ignores the label {ignored}, which is the class {stuff[ignored]!r}"
        wanted = f"an ignore_label outside of 0..{len(stuff) - 1}"
        issues.append(error("ignored label that is a class", name, found, wanted))
    value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
    if value != ignored:
        found = f"is {value}, but {name} ignores the label {ignored}"
        issues.append(error("ignored label that differs", IGNORED, found, str(ignored)))
    return issues


def _name_issues(known: Mapping[str, Mapping[str, Any]]) -> list[DatasetIssue]:
    """Data sets of one configuration must have the same classes in the same order."""
    issues = []
    for key in ("thing_classes", "stuff_classes"):
        lists = {name: list(m[key]) for name, m in known.items() if m.get(key) is not None}
        first = next(iter(lists), "")
        for name, classes in lists.items():
            if classes == lists[first]:
                continue
            pairs = zip_longest(classes, lists[first])
            position = next(at for at, (one, other) in enumerate(pairs) if one != other)
            found = f"its {key} differ from those of {first} from number {position} on"
            issues.append(
                error("classes that differ between data sets", name, found, "the same names")
            )
    return issues


def check_files_exist(dataset_names: Sequence[str]) -> list[DatasetIssue]:
    """Find annotation files and folders that are missing or empty; quick.

    Raises:
        ValueError: for a name that is not registered.
    """
    issues = []
    for name in dict.fromkeys(dataset_names):
        issues += missing_files(metadata_of(name))
    return list(dict.fromkeys(issues))


def missing_files(metadata: Mapping[str, Any]) -> list[DatasetIssue]:
    """Return what is missing of one data set, from its metadata."""
    name = metadata.get("name", "the data set")
    issues = []
    for key, what in (_FILES | _FOLDERS).items():
        path, kind = metadata.get(key), "file" if key in _FILES else "folder"
        if not path:
            continue
        expected = f"{what} of {name}{remedy(path)}{_ROOT}"
        if not (os.path.isfile if key in _FILES else os.path.isdir)(path):
            issues.append(error(f"missing {kind}", path, "is not there", expected))
        elif kind == "folder" and next(os.scandir(path), None) is None:
            issues.append(error("empty folder", path, "holds nothing", expected))
    return issues + _missing_train_ids(metadata)


def _missing_train_ids(metadata: Mapping[str, Any]) -> list[DatasetIssue]:
    """Cityscapes' train ids do not come with the download: ask for one of them."""
    kinds = KINDS.get(metadata.get("evaluator_type", ""), ())
    folder = metadata.get("gt_dir")
    if "labelTrainIds" not in kinds or not folder or not os.path.isdir(folder):
        return []
    if next(Path(folder).glob("*/*_labelTrainIds.png"), None) is not None:
        return []
    pattern = os.path.join(folder, "*", "*_labelTrainIds.png")
    expected = f"the semantic labels{remedy(pattern)}"
    return [error("missing file", pattern, "there is no such file", expected)]
