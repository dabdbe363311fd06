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

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.synthetic.arguments import check_choice, check_index, check_size
from freqfusion.data.synthetic.arrays import ByteArray, IdArray
from freqfusion.data.synthetic.categories import CATEGORIES, VOID_LABEL
from freqfusion.data.synthetic.cityscapes_labels import (
    CITYSCAPES_LABELS,
    UNLABELED_ID,
    CityscapesLabel,
    cityscapes_label,
)
from freqfusion.data.synthetic.difficulty import Difficulty, check_difficulty
from freqfusion.data.synthetic.output import prepare_root, scene_note, write_json
from freqfusion.data.synthetic.parallel import check_workers, run_in_order
from freqfusion.data.synthetic.polygons import mask_polygons
from freqfusion.data.synthetic.records import areas_and_boxes, crop_masks
from freqfusion.data.synthetic.scenes import DETAILS, Scene, make_scene
from freqfusion.data.synthetic.splits import SceneNumber, check_splits, scene_numbers
from freqfusion.metrics.id_codec import id_to_rgb

CITIES = {"train": "northtown", "val": "southtown", "tune": "westtown"}

_LABEL_OF_ID = {category.id: cityscapes_label(category.name) for category in CATEGORIES}
_TRAIN_ID_OF_ID = {label.id: label.train_id for label in CITYSCAPES_LABELS}


@dataclass(frozen=True, slots=True)
class _SceneJob:
    root: Path
    number: SceneNumber
    size: tuple[int, int]
    detail: str
    difficulty: Difficulty


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
    difficulty: Difficulty | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a data set in Cityscapes layout (see the module's text) and return its folder.

    Arguments and errors are those of ``write_coco``.
    """
    seed, size = check_index("seed", seed), check_size(size)
    splits = check_splits(num_train, num_val, num_tune)
    processes = check_workers(workers)
    check_choice("detail", detail, DETAILS)
    dials = check_difficulty(Difficulty() if difficulty is None else difficulty)
    note = scene_note("cityscapes", seed, size, splits, detail, dials)
    folders = [
        folder.format(split=split, city=CITIES[split])
        for split in splits
        for folder in (
            "leftImg8bit/{split}/{city}",
            "gtFine/{split}/{city}",
            "gtFine/cityscapes_panoptic_{split}",
        )
    ]
    owned = ["leftImg8bit", "gtFine"]
    path = prepare_root(root, folders, note, owned=owned, overwrite=overwrite)
    jobs = [_SceneJob(path, number, size, detail, dials) for number in scene_numbers(seed, splits)]
    records = run_in_order(
        _write_scene, jobs, workers=processes, title="Cityscapes scenes", progress=progress
    )
    for split in splits:
        chosen = [r for job, r in zip(jobs, records, strict=True) if job.number.split == split]
        _write_panoptic_json(path / "gtFine", split, chosen, size)
    return path


def instance_values(scene: Scene) -> list[int]:
    """For each segment its value in the instance map: label id * 1000 + number for an instance.

    Stuff, and a crowd of things, have the bare label id.
    """
    used: dict[int, int] = {}
    values = []
    for segment in scene.segments:
        label = _LABEL_OF_ID[segment.category_id]
        if label.has_instances and not segment.iscrowd:
            values.append(label.id * 1000 + used.get(label.id, 0))
            used[label.id] = used.get(label.id, 0) + 1
        else:
            values.append(label.id)
    return values


def _write_scene(job: _SceneJob) -> dict[str, Any]:
    """Paint one scene, write its files and return its panoptic annotation."""
    number = job.number
    key = number.seed, number.index, job.size
    scene = make_scene(*key, detail=job.detail, difficulty=job.difficulty)
    city = CITIES[number.split]
    name = f"{city}_{number.position:06d}_000019"
    image = job.root / "leftImg8bit" / number.split / city / f"{name}_leftImg8bit.png"
    Image.fromarray(scene.image).save(image, compress_level=1)
    values = np.array([UNLABELED_ID, *instance_values(scene)], dtype=np.int32)
    labels = np.where(values >= 1000, values // 1000, values)
    train_ids = [_TRAIN_ID_OF_ID.get(label, VOID_LABEL) for label in labels.tolist()]
    truth = job.root / "gtFine" / number.split / city
    maps: dict[str, NDArray[Any]] = {
        "labelIds": labels.astype(np.uint8)[scene.panoptic],
        "labelTrainIds": np.array(train_ids, dtype=np.uint8)[scene.panoptic],
        "instanceIds": values.astype(np.uint16)[scene.panoptic],
    }
    for kind, pixels in maps.items():
        path = truth / f"{name}_gtFine_{kind}.png"
        Image.fromarray(pixels).save(path, compress_level=4)
    write_json(truth / f"{name}_gtFine_polygons.json", _polygon_file(scene))
    colors, annotation = _panoptic(values[scene.panoptic], name)
    folder = job.root / "gtFine" / f"cityscapes_panoptic_{number.split}"
    Image.fromarray(colors).save(folder / annotation["file_name"], compress_level=4)
    return annotation


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


def _panoptic(values: IdArray, name: str) -> tuple[ByteArray, dict[str, Any]]:
    """The panoptic picture of a map of instance values, and its annotation."""
    present = [value for value in np.unique(values).tolist() if value != UNLABELED_ID]
    number = np.zeros(max(present) + 1, dtype=np.int32)
    number[present] = np.arange(1, len(present) + 1)
    areas, boxes = areas_and_boxes(number[values], len(present))
    segments = []
    for value, area, box in zip(present, areas, boxes, strict=True):
        label = _label_of_value(value)
        segments.append(
            {
                "id": value,
                "category_id": label.id,
                "area": area,
                "bbox": box.xywh(),
                "iscrowd": int(label.has_instances and value < 1000),
            }
        )
    annotation = {
        "image_id": name,
        "file_name": f"{name}_gtFine_panoptic.png",
        "segments_info": segments,
    }
    return id_to_rgb(values), annotation


def _label_of_value(value: int) -> CityscapesLabel:
    label_id = value // 1000 if value >= 1000 else value
    return CITYSCAPES_LABELS[_TRAIN_ID_OF_ID[label_id]]


def _write_panoptic_json(
    folder: Path, split: str, annotations: list[dict[str, Any]], size: tuple[int, int]
) -> None:
    images = [
        {
            "id": annotation["image_id"],
            "width": size[1],
            "height": size[0],
            "file_name": f"{annotation['image_id']}_gtFine_leftImg8bit.png",
        }
        for annotation in annotations
    ]
    categories = [
        {
            "id": label.id,
            "name": label.name,
            "color": list(label.color),
            "supercategory": label.group,
            "isthing": int(label.has_instances),
        }
        for label in CITYSCAPES_LABELS
    ]
    write_json(
        folder / f"cityscapes_panoptic_{split}.json",
        {"images": images, "annotations": annotations, "categories": categories},
    )
