"""Stand-ins for COCO, Cityscapes and ADE20K: their folders, names and classes, generated scenes.

With ``DETECTRON2_DATASETS`` set to the folder, every configuration of this project runs from
reading the data to the scores before the real data set is there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

from freqfusion.data.preparation import prepare_ade20k, prepare_cityscapes, prepare_coco
from freqfusion.data.synthetic import CATEGORIES, write_cityscapes, write_coco

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

_ADE_SPLITS = {"train": "training", "val": "validation"}


def write_rehearsal(
    root: str | Path, *, num_train: int, num_val: int, size: tuple[int, int], seed: int = 0
) -> Path:
    """Write ``coco``, ``cityscapes`` and ``ADEChallengeData2016`` into ``root``; the folder."""
    folder = Path(root)
    scenes: dict[str, Any] = {
        "num_train": num_train,
        "num_val": num_val,
        "size": size,
        "seed": seed,
        "progress": False,
    }
    write_cityscapes(folder / "cityscapes", **scenes)
    prepare_cityscapes(folder / "cityscapes", progress=False)
    coco = write_coco(folder / "coco", **scenes)
    _write_ade20k(coco, folder / "ADEChallengeData2016")
    prepare_ade20k(folder / "ADEChallengeData2016", progress=False)
    _rename_to_coco(coco)
    prepare_coco(coco, progress=False)
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


def _write_ade20k(scenes: Path, folder: Path) -> None:
    """ADE20K's folders: the label of a scene's class is its number, from 1 on; 0 is void."""
    for split, name in _ADE_SPLITS.items():
        if not (scenes / split).is_dir():
            continue
        images, labels = folder / "images" / name, folder / "annotations" / name
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for source in sorted((scenes / split).glob("*.jpg")):
            (images / source.name).write_bytes(source.read_bytes())
            with Image.open(scenes / f"panoptic_semseg_{split}" / f"{source.stem}.png") as picture:
                values = np.asarray(picture)
            shifted = np.where(values == 255, 0, values + 1).astype(np.uint8)
            Image.fromarray(shifted).save(labels / f"{source.stem}.png")
