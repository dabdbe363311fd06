"""Cityscapes with instances, from the PNG files that come with it.

Detectron2's own loader of the instances needs a package that is not public.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from freqfusion.data.synthetic.parallel import default_workers

# Label ids of the classes that have instances; the position is the contiguous class.
THING_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
_IMAGE, _GT = "_leftImg8bit.png", "_gtFine_"
_CLASS_OF_ID = {label: number for number, label in enumerate(THING_IDS)}


def load_instances(image_dir: str, gt_dir: str) -> list[dict[str, Any]]:
    """Dicts with ``annotations``: RLE masks, so ``INPUT.MASK_FORMAT`` must be "bitmask".

    A region of a class with instances that are not told apart is a crowd. Void, and classes that
    are not evaluated, have no annotation.
    """
    images = city_images(image_dir)
    gt_files = [gt_file(image, image_dir, gt_dir, "instanceIds") for image in images]
    # Decoding and comparing release the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(default_workers()) as pool:
        return list(pool.map(_instance_dict, images, gt_files))


def load_separated(
    image_dir: str, gt_dir: str, stuff_dir: str, panoptic_dir: str
) -> list[dict[str, Any]]:
    """``load_instances`` with the stuff maps and panoptic files, for a Panoptic FPN."""
    dicts = load_instances(image_dir, gt_dir)
    for entry in dicts:
        name = entry["image_id"]
        entry["sem_seg_file_name"] = str(Path(stuff_dir) / f"{name}_gtFine_stuff.png")
        entry["pan_seg_file_name"] = str(Path(panoptic_dir) / f"{name}_gtFine_panoptic.png")
    return dicts


def city_images(image_dir: str) -> list[Path]:
    """All images of the cities of a split; ValueError where there is none."""
    images = sorted(Path(image_dir).glob(f"*/*{_IMAGE}"))
    if not images:
        raise ValueError(f"no image <city>/*{_IMAGE} in {image_dir}; is this Cityscapes' folder?")
    return images


def gt_file(image: Path, image_dir: str, gt_dir: str, kind: str) -> Path:
    """``<gt_dir>/<city>/<name>_gtFine_<kind>.png`` of an image."""
    city = image.relative_to(image_dir).parent
    return Path(gt_dir) / city / (image.name.removesuffix(_IMAGE) + f"{_GT}{kind}.png")


def _instance_dict(image: Path, gt: Path) -> dict[str, Any]:
    try:
        with Image.open(gt) as picture:
            values = np.asarray(picture)
    except OSError as error:
        raise ValueError(f"cannot read the instances {gt}: {error}") from error
    height, width = values.shape
    return {
        "file_name": str(image),
        "image_id": image.name.removesuffix(_IMAGE),
        "height": height,
        "width": width,
        "annotations": list(_annotations(values)),
    }


def _annotations(values: Any) -> Iterable[dict[str, Any]]:
    for value in np.unique(values).tolist():
        label = value // 1000 if value >= 1000 else value
        if label not in _CLASS_OF_ID:
            continue
        rows, columns = np.nonzero(values == value)
        mask = np.asfortranarray(values == value, dtype=np.uint8)
        left, top = int(columns.min()), int(rows.min())
        box = [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
        yield {
            "bbox": [float(side) for side in box],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": _CLASS_OF_ID[label],
            "segmentation": coco_mask.encode(mask),
            "iscrowd": int(value < 1000),
            "area": len(rows),
        }
