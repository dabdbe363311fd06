"""Write scenes as a data set in Cityscapes layout.

::

    <root>/leftImg8bit/{split}/<city>/<name>_leftImg8bit.png
    <root>/gtFine/{split}/<city>/<name>_gtFine_labelIds.png         label ids, 0 void
    <root>/gtFine/{split}/<city>/<name>_gtFine_labelTrainIds.png    train ids, 255 void
    <root>/gtFine/{split}/<city>/<name>_gtFine_instanceIds.png      id, or id * 1000 + number
    <root>/gtFine/{split}/<city>/<name>_gtFine_polygons.json
    <root>/gtFine/cityscapes_panoptic_{split}/<name>_gtFine_panoptic.png
    <root>/gtFine/cityscapes_panoptic_{split}.json
    <root>/synthetic.json                                           how this data set was made

``<name>`` is ``<city>_<scene, six digits>_000019``; the split is ``train``, ``val`` or ``tune``,
with one city each. Scenes are the same as in COCO layout for the same seed and size. The panoptic
files are what Cityscapes' own preparation makes of the instance ids. Polygons are the visible
parts, exact along pixel edges (see ``polygons``), so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.categories import CITYSCAPES_CATEGORIES, json_entries
from freqfusion.data.synthetic.categories import CATEGORIES, cityscapes_label
from freqfusion.data.synthetic.masks import areas_and_boxes, crop_masks, mask_polygons
from freqfusion.data.synthetic.scenes import Scene
from freqfusion.data.synthetic.shapes import IdArray
from freqfusion.data.synthetic.writing import SceneJob, SceneSet, write_json, write_scenes
from freqfusion.metrics.cityscapes_labels import (
    CITYSCAPES_LABELS,
    FIRST_INSTANCE,
    TRAIN_ID_OF_ID,
    label_ids,
)
from freqfusion.metrics.id_codec import id_to_rgb

CITIES = {"train": "northtown", "val": "southtown", "tune": "westtown"}

_FOLDERS = (
    "leftImg8bit/{split}/{city}",
    "gtFine/{split}/{city}",
    "gtFine/cityscapes_panoptic_{split}",
)
_LABEL_OF_ID = {category.id: cityscapes_label(category.name) for category in CATEGORIES}
_LABELS = {label.id: label for label in CITYSCAPES_LABELS}


def write_cityscapes(
    root: str | Path,
    *,
    num_train: int,
    num_val: int,
    num_tune: int = 0,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    workers: int | None = None,
    detail: str = "full",
    line_thickness: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a data set in Cityscapes layout (see the module's text) and return its folder.

    Arguments and errors are those of ``write_coco``.
    """
    scenes = SceneSet(num_train, num_val, num_tune, seed, size, detail, line_thickness)
    path, records = write_scenes(
        _write_scene,
        "cityscapes",
        root,
        scenes,
        folders=[f.format(split=s, city=CITIES[s]) for s in scenes.splits for f in _FOLDERS],
        owned=["leftImg8bit", "gtFine"],
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )
    for split, entries in records.items():
        file = path / "gtFine" / f"cityscapes_panoptic_{split}.json"
        write_json(file, panoptic_index(entries))
    return path


def instance_values(scene: Scene) -> list[int]:
    """Return each segment's value in the instance map: label id * 1000 + number for an instance.

    Stuff, and a crowd of things, have the bare label id.
    """
    used: dict[int, int] = {}
    values = []
    for segment in scene.segments:
        label = _LABEL_OF_ID[segment.category_id]
        if label.has_instances and not segment.iscrowd:
            values.append(label.id * FIRST_INSTANCE + used.get(label.id, 0))
            used[label.id] = used.get(label.id, 0) + 1
        else:
            values.append(label.id)
    return values


def panoptic_segments(
    values: NDArray[np.integer[Any]],
) -> tuple[IdArray, list[dict[str, Any]]]:
    """Return ids and segments of a map of instance values; 0 is what is not evaluated.

    Ids are the values themselves. The bare label of a thing is a crowd of it.
    """
    counts = np.bincount(values.ravel())
    present = np.flatnonzero(counts)
    labels = dict(zip(present.tolist(), label_ids(present).tolist(), strict=True))
    kept = [value for value, label in labels.items() if label in _LABELS]
    number = np.zeros(len(counts), dtype=np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    numbers = number[values]
    areas, boxes = areas_and_boxes(numbers, len(kept))
    segments = [
        {
            "id": value,
            "category_id": labels[value],
            "area": area,
            "bbox": box.xywh(),
            "iscrowd": int(_LABELS[labels[value]].has_instances and value < FIRST_INSTANCE),
        }
        for value, area, box in zip(kept, areas, boxes, strict=True)
    ]
    return np.array([0, *kept], dtype=np.int32)[numbers], segments


def panoptic_entry(
    values: NDArray[np.integer[Any]], name: str
) -> tuple[IdArray, dict[str, Any], dict[str, Any]]:
    """Return the panoptic ids of a map of instance values, and the two entries of its image."""
    ids, segments = panoptic_segments(values)
    height, width = values.shape
    image = {
        "id": name,
        "width": width,
        "height": height,
        "file_name": f"{name}_gtFine_leftImg8bit.png",
    }
    annotation = {
        "image_id": name,
        "file_name": f"{name}_gtFine_panoptic.png",
        "segments_info": segments,
    }
    return ids, image, annotation


def panoptic_index(entries: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Return the content of a split's panoptic JSON from (image, annotation) of each image."""
    return {
        "images": [image for image, _ in entries],
        "annotations": [annotation for _, annotation in entries],
        "categories": json_entries(CITYSCAPES_CATEGORIES),
    }


def _write_scene(job: SceneJob) -> tuple[dict[str, Any], dict[str, Any]]:
    """Paint one scene, write its files and return its entries of the panoptic JSON."""
    split, scene = job.split, job.paint()
    city = CITIES[split]
    name = f"{city}_{job.position:06d}_000019"
    image = job.root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    Image.fromarray(scene.image).save(image, compress_level=1)
    values = np.array([0, *instance_values(scene)])
    labels = label_ids(values)
    maps: dict[str, NDArray[Any]] = {
        "labelIds": labels.astype(np.uint8)[scene.panoptic],
        "labelTrainIds": TRAIN_ID_OF_ID[labels][scene.panoptic],
        "instanceIds": values.astype(np.uint16)[scene.panoptic],
    }
    folder = job.root / "gtFine" / split / city
    for kind, pixels in maps.items():
        Image.fromarray(pixels).save(folder / f"{name}_gtFine_{kind}.png", compress_level=4)
    write_json(folder / f"{name}_gtFine_polygons.json", _polygon_file(scene))
    ids, *entry = panoptic_entry(maps["instanceIds"], name)
    file = job.root / "gtFine" / f"cityscapes_panoptic_{split}" / entry[1]["file_name"]
    Image.fromarray(id_to_rgb(ids)).save(file, compress_level=4)
    return entry[0], entry[1]


def _polygon_file(scene: Scene) -> dict[str, Any]:
    height, width = scene.panoptic.shape
    _, boxes = areas_and_boxes(scene.panoptic, len(scene.segments))
    objects = []
    for segment, box, crop in crop_masks(scene, boxes):
        label = _LABEL_OF_ID[segment.category_id]
        name = f"{label.name}group" if segment.iscrowd else label.name
        for polygon in mask_polygons(crop):
            corners = [[x + box.left, y + box.top] for x, y in polygon]
            objects.append({"label": name, "polygon": corners})
    return {"imgHeight": height, "imgWidth": width, "objects": objects}
