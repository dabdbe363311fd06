"""Stand-ins for COCO, Cityscapes, ADE20K and CamVid: generated scenes, the real names and classes.

With ``DETECTRON2_DATASETS`` set to the folder, every configuration of this project runs from
reading the data to the scores before the real data set is there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.preparation import (
    prepare_ade20k,
    prepare_camvid,
    prepare_cityscapes,
    prepare_coco,
)
from freqfusion.data.synthetic import CATEGORIES, write_cityscapes, write_coco
from freqfusion.data.workers import PreparationOptions

_COCO_NAMES = {
    "disc": "sports ball",
    "star": "kite",
    "box": "suitcase",
    "wheel": "bicycle",
    "pole": "parking meter",
    "wire": "skis",
    "tree": "potted plant",
    "sky": "sky-other-merged",
    "grass": "grass-merged",
    "road": "road",
    "water": "water-other",
    "wall": "wall-brick",
    "fence": "fence-merged",
}
"""Category of the scenes -> category of COCO that stands in for it."""

_ADE20K_SPLITS = {"train": "training", "val": "validation"}
_CAMVID_VOID = 11


def write_rehearsal(
    root: str | Path, *, num_train: int, num_val: int, size: tuple[int, int], seed: int = 0
) -> Path:
    """Write ``coco``, ``cityscapes``, ``ADEChallengeData2016`` and ``camvid``; return ``root``."""
    folder = Path(root)
    scenes: dict[str, Any] = {
        "num_train": num_train,
        "num_val": num_val,
        "size": size,
        "seed": seed,
        "progress": False,
    }
    quiet = PreparationOptions(progress=False)
    write_cityscapes(folder / "cityscapes", **scenes)
    prepare_cityscapes(folder / "cityscapes", quiet)
    coco = write_coco(folder / "coco", **scenes)
    for split, name in _ADE20K_SPLITS.items():
        ade20k = folder / "ADEChallengeData2016"
        folders = ade20k / "images" / name, ade20k / "annotations" / name
        _write_semantic(coco, split, *folders, lambda labels: labels + np.uint8(1))
    prepare_ade20k(folder / "ADEChallengeData2016", quiet)
    for split in ("train", "val"):
        folders = folder / "camvid" / split, folder / "camvid" / f"{split}annot"
        _write_semantic(coco, split, *folders, lambda labels: np.minimum(labels, _CAMVID_VOID))
    prepare_camvid(folder / "camvid", quiet)
    _rename_to_coco(coco)
    prepare_coco(coco, quiet)
    return folder


def _rename_to_coco(folder: Path) -> None:
    """Turn a data set of scenes into one with COCO's folders and categories."""
    by_name = {entry["name"]: entry for entry in COCO_CATEGORIES}
    numbers = {c.id: by_name[_COCO_NAMES[c.name]]["id"] for c in CATEGORIES}
    for split in ("train", "val"):
        if not (folder / split).is_dir():
            continue
        for left_over in (f"panoptic_stuff_{split}", f"panoptic_semseg_{split}"):
            shutil.rmtree(folder / left_over)
        (folder / split).rename(folder / f"{split}2017")
        (folder / f"panoptic_{split}").rename(folder / f"panoptic_{split}2017")
        for kind, categories in (
            ("instances", [entry for entry in COCO_CATEGORIES if entry["isthing"]]),
            ("panoptic", COCO_CATEGORIES),
        ):
            old = folder / "annotations" / f"{kind}_{split}.json"
            content = json.loads(old.read_text(encoding="utf-8"))
            content["categories"] = categories
            for annotation in content["annotations"]:
                for entry in annotation.get("segments_info", [annotation]):
                    entry["category_id"] = numbers[entry["category_id"]]
            new = folder / "annotations" / f"{kind}_{split}2017.json"
            new.write_text(json.dumps(content), encoding="utf-8")
            old.unlink()


def _write_semantic(
    scenes: Path,
    split: str,
    images: Path,
    labels: Path,
    relabel: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
) -> None:
    """Copy a split of the scenes, its void being 255, with the labels that ``relabel`` returns."""
    if not (scenes / split).is_dir():
        return
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for source in sorted((scenes / split).glob("*.jpg")):
        shutil.copy(source, images)
        with Image.open(scenes / f"panoptic_semseg_{split}" / f"{source.stem}.png") as image:
            values = relabel(np.array(image))
        Image.fromarray(values).save(labels / f"{source.stem}.png")
