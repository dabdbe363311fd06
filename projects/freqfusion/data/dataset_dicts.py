"""Return Detectron2's dicts of Cityscapes and of COCO-like data sets with images of any format.

Detectron2's own loader of Cityscapes' instances needs a package that is not public.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from PIL import Image
from pycocotools import mask as coco_mask

from freqfusion.data.reading import IMAGE_SUFFIXES, label_files
from freqfusion.data.synthetic.cityscapes import panoptic_segments
from freqfusion.data.validation.annotations import describe
from freqfusion.data.validation.issues import repeated
from freqfusion.data.workers import default_workers
from freqfusion.messages import shorten
from freqfusion.metrics.cityscapes_labels import INSTANCE_LABELS

logger = logging.getLogger(__name__)


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
    dicts, without = [], []
    for image, label in label_files(image_root, sem_seg_root):
        if label.is_file():
            dicts.append({"file_name": str(image), "sem_seg_file_name": str(label)})
        else:
            without.append(str(image))
    if not dicts:
        raise ValueError(
            f"no image in {image_root} has a PNG of the same name in {sem_seg_root}; check both"
            " folders"
        )
    if without:
        logger.warning(
            "%d of the %d images in %s have no PNG of their name in %s and are left out: %s",
            *(len(without), len(without) + len(dicts), image_root, sem_seg_root, shorten(without)),
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


_IMAGE = "_leftImg8bit.png"
_CLASS_OF_ID = {label.id: number for number, label in enumerate(INSTANCE_LABELS)}


def load_cityscapes(image_dir: str, gt_dir: str) -> list[dict[str, Any]]:
    """Return dicts with ``annotations`` of RLE masks (``INPUT.MASK_FORMAT`` "bitmask").

    A region of a class with instances that are not told apart is a crowd. Void, and classes that
    are not evaluated, have no annotation.
    """
    images = sorted(Path(image_dir).glob(f"*/*{_IMAGE}"))
    if not images:
        raise ValueError(f"no image <city>/*{_IMAGE} in {image_dir}; is this Cityscapes' folder?")
    # Decoding and comparing release the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(default_workers()) as pool:
        return list(pool.map(_instance_dict, images, itertools.repeat(Path(gt_dir))))


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


def _instance_dict(image: Path, gt_dir: Path) -> dict[str, Any]:
    gt = gt_dir / image.parent.name / image.name.replace(_IMAGE, "_gtFine_instanceIds.png")
    try:
        with Image.open(gt) as file:
            values = np.asarray(file)
    except OSError as error:
        raise ValueError(f"cannot read the instances {gt}: {error}") from error
    _, segments = panoptic_segments(values)
    annotations = [
        {
            "bbox": [float(side) for side in segment["bbox"]],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": _CLASS_OF_ID[segment["category_id"]],
            "segmentation": coco_mask.encode(
                np.asfortranarray(values == segment["id"], dtype=np.uint8)
            ),
            "iscrowd": segment["iscrowd"],
            "area": segment["area"],
        }
        for segment in segments
        if segment["category_id"] in _CLASS_OF_ID
    ]
    return {
        "file_name": str(image),
        "image_id": image.name.removesuffix(_IMAGE),
        "height": values.shape[0],
        "width": values.shape[1],
        "annotations": annotations,
    }
