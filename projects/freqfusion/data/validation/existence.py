"""Whether the files and folders that the metadata names are there; reads none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqfusion.data.validation.catalog import metadata_of
from freqfusion.data.validation.cityscapes import KINDS
from freqfusion.data.validation.finding import Finding, error
from freqfusion.data.validation.remedies import remedy

FILES = {"json_file": "the instances", "panoptic_json": "the panoptic segments"}
FOLDERS = {
    "image_root": "the images",
    "image_dir": "the images",
    "panoptic_root": "the panoptic PNGs",
    "sem_seg_root": "the semantic labels",
    "gt_dir": "the labels",
}
_ROOT = "; DETECTRON2_DATASETS names the folder of all data sets"


def check_files_exist(dataset_names: Sequence[str]) -> list[Finding]:
    """Find annotation files and folders that are missing or empty; quick.

    Raises:
        ValueError: for a name that is not registered.
    """
    findings = []
    for name in dict.fromkeys(dataset_names):
        findings += missing_places(metadata_of(name))
    return list(dict.fromkeys(findings))


def missing_places(metadata: Mapping[str, Any]) -> list[Finding]:
    """Findings for one data set, from its metadata."""
    name = metadata.get("name", "the data set")
    findings = []
    for key, what in FILES.items():
        path = metadata.get(key)
        if path and not os.path.isfile(path):
            expected = f"{what} of {name}{remedy(path)}{_ROOT}"
            findings.append(error("missing file", path, "is not there", expected))
    for key, what in FOLDERS.items():
        path = metadata.get(key)
        if not path:
            continue
        expected = f"{what} of {name}{remedy(path)}{_ROOT}"
        if not os.path.isdir(path):
            findings.append(error("missing folder", path, "is not there", expected))
        elif _is_empty(path):
            findings.append(error("empty folder", path, "holds nothing", expected))
    return findings + _missing_train_ids(metadata)


def usable(metadata: Mapping[str, Any], *keys: str) -> bool:
    """Whether the metadata has these entries and what they name is there."""
    return all(metadata.get(key) and os.path.exists(metadata[key]) for key in keys)


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as entries:
        return next(entries, None) is None


def _missing_train_ids(metadata: Mapping[str, Any]) -> list[Finding]:
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
