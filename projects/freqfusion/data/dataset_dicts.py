"""Return Detectron2's dicts of Cityscapes and of COCO-like data sets with images of any format.

Detectron2's own loader of Cityscapes' instances needs a package that is not public.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image
from pycocotools import mask as coco_mask

from freqfusion.data.validation.annotations import describe
from freqfusion.data.validation.issues import repeated
from freqfusion.data.workers import default_workers
from freqfusion.messages import shorten

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def load_panoptic(
    json_file: str,
    image_root: str,
    panoptic_root: str,
    metadata: Mapping[str, Any],
    sem_seg_root: str | None = None,
) -> list[dict[str, Any]]:
    """Return dicts with ``pan_seg_file_name`` and ``segments_info`` of a panoptic JSON.

    An image has the name that the JSON's ``images`` give it, and otherwise that of its panoptic
    PNG with any suffix of ``IMAGE_SUFFIXES``. Category ids become contiguous, by
    ``thing_dataset_id_to_contiguous_id`` and ``stuff_dataset_id_to_contiguous_id``. With
    ``sem_seg_root``, ``sem_seg_file_name`` is the PNG of the same name there.
    """
    content = read_json(json_file)
    images = {image["id"]: image for image in content.get("images", ())}
    things = metadata["thing_dataset_id_to_contiguous_id"]
    stuff = metadata["stuff_dataset_id_to_contiguous_id"]

    def contiguous(segment: dict[str, Any]) -> dict[str, Any]:
        number = segment["category_id"]
        if number not in things and number not in stuff:
            raise ValueError(
                f"{json_file}: segment {segment['id']} has the category {number}, which is not"
                " among the classes of the data set"
            )
        is_thing = number in things
        return segment | {
            "category_id": things[number] if is_thing else stuff[number],
            "isthing": is_thing,
        }

    dicts = []
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"], {})
        found = _image_file(Path(image_root), image.get("file_name"), annotation["file_name"])
        size = {name: image[name] for name in ("height", "width") if name in image}
        entry = {
            "file_name": str(found),
            "image_id": annotation["image_id"],
            "pan_seg_file_name": str(Path(panoptic_root) / annotation["file_name"]),
            "segments_info": [contiguous(segment) for segment in annotation["segments_info"]],
            **size,
        }
        if sem_seg_root is not None:
            entry["sem_seg_file_name"] = str(Path(sem_seg_root) / annotation["file_name"])
        dicts.append(entry)
    return dicts


def load_instances(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """Return dicts of COCO's instances; ValueError where an image is in the JSON twice.

    Detectron2 would merge the objects of both. Its own errors, for what else a JSON lacks, pass.
    Objects with polygons that it leaves out, because they are none, are named in the log.
    """
    content = read_json(json_file)
    numbers = [image.get("id") for image in content.get("images", ())]
    twice = repeated(json_file, "image id", numbers)
    if twice:
        raise ValueError(twice[0].sentence())
    dicts: list[dict[str, Any]] = load_coco_json(json_file, image_root, name)
    cut = [describe(entry) for entry in content["annotations"] if _lacks_points(entry)]
    if cut:
        logger.warning(
            "%s: polygons of fewer than 3 points, or of an odd count of numbers, are left out, and"
            " objects without another one too: %s",
            *(json_file, shorten(cut)),
        )
    return dicts


def _lacks_points(annotation: Mapping[str, Any]) -> bool:
    polygons = annotation.get("segmentation")
    return isinstance(polygons, list) and any(
        len(polygon) < 6 or len(polygon) % 2 for polygon in polygons
    )


def load_semantic(image_root: str, sem_seg_root: str) -> list[dict[str, Any]]:
    """Return a dict with ``sem_seg_file_name`` for each image that has a PNG of its name.

    Images may lie in folders, which then are the same on both sides.
    """
    images, labels = Path(image_root), Path(sem_seg_root)
    dicts, without = [], []
    for image in sorted(images.rglob("*")):
        label = labels / image.relative_to(images).with_suffix(".png")
        if image.suffix in IMAGE_SUFFIXES and label.is_file():
            dicts.append({"file_name": str(image), "sem_seg_file_name": str(label)})
        elif image.suffix in IMAGE_SUFFIXES:
            without.append(str(image))
    if not dicts:
        raise ValueError(
            f"no image in {image_root} has a PNG of the same name in {sem_seg_root}; check both"
            " folders"
        )
    if without:
        logger.warning(
            "%d of the %d images in %s have no PNG of their name in %s and are left out: %s",
            *(len(without), len(without) + len(dicts), images, labels, shorten(without)),
        )
    return dicts


def read_json(path: str) -> dict[str, Any]:
    """Return the content of a JSON file; ValueError with the reason if it cannot be read."""
    try:
        with PathManager.open(path, "r") as file:
            return dict(json.load(file))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"cannot read the annotations {path}: {error}") from error


def _image_file(root: Path, named: str | None, panoptic: str) -> Path:
    if named is not None and (root / named).is_file():
        return root / named
    stem = root / Path(panoptic).with_suffix("")
    for suffix in IMAGE_SUFFIXES:
        if (path := stem.with_name(stem.name + suffix)).is_file():
            return path
    name = named or f"{stem.name} with one of the suffixes {', '.join(IMAGE_SUFFIXES[:3])}"
    raise ValueError(f"there is no image {name} in {root}")


# Label ids of the classes that have instances; the position is the contiguous class.
THING_IDS = (24, 25, 26, 27, 28, 31, 32, 33)
_IMAGE, _GT = "_leftImg8bit.png", "_gtFine_"
_CLASS_OF_ID = {label: number for number, label in enumerate(THING_IDS)}


def load_cityscapes(image_dir: str, gt_dir: str) -> list[dict[str, Any]]:
    """Return dicts with ``annotations`` of RLE masks (``INPUT.MASK_FORMAT`` "bitmask").

    A region of a class with instances that are not told apart is a crowd. Void, and classes that
    are not evaluated, have no annotation.
    """
    images = city_images(image_dir)
    gt_files = [gt_file(image, image_dir, gt_dir, "instanceIds") for image in images]
    # Decoding and comparing release the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(default_workers()) as pool:
        return list(pool.map(_instance_dict, images, gt_files))


def load_separated_cityscapes(
    image_dir: str, gt_dir: str, stuff_dir: str, panoptic_dir: str
) -> list[dict[str, Any]]:
    """Return the dicts of ``load_cityscapes`` with stuff maps and panoptic files."""
    dicts = load_cityscapes(image_dir, gt_dir)
    for entry in dicts:
        name = entry["image_id"]
        entry["sem_seg_file_name"] = str(Path(stuff_dir) / f"{name}_gtFine_stuff.png")
        entry["pan_seg_file_name"] = str(Path(panoptic_dir) / f"{name}_gtFine_panoptic.png")
    return dicts


def city_images(image_dir: str) -> list[Path]:
    """Return all images of the cities of a split; ValueError if there is none."""
    images = sorted(Path(image_dir).glob(f"*/*{_IMAGE}"))
    if not images:
        raise ValueError(f"no image <city>/*{_IMAGE} in {image_dir}; is this Cityscapes' folder?")
    return images


def gt_file(image: Path, image_dir: str, gt_dir: str, kind: str) -> Path:
    """Return ``<gt_dir>/<city>/<name>_gtFine_<kind>.png`` of an image."""
    city = image.relative_to(image_dir).parent
    return Path(gt_dir) / city / (image.name.removesuffix(_IMAGE) + f"{_GT}{kind}.png")


def _instance_dict(image: Path, gt: Path) -> dict[str, Any]:
    try:
        with Image.open(gt) as file:
            values = np.asarray(file)
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
