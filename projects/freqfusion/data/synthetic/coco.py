"""Write scenes as a data set in COCO layout.

::

    <root>/{train,val,tune}/000000000001.jpg             images (quality 95)
    <root>/annotations/instances_{split}.json            things: polygons or RLE; crowds always RLE
    <root>/annotations/panoptic_{split}.json             things and stuff
    <root>/panoptic_{split}/000000000001.png             ids, R + 256 G + 65536 B; black is void
    <root>/panoptic_stuff_{split}/000000000001.png       0 any thing, 1.. stuff, 255 void
    <root>/panoptic_semseg_{split}/000000000001.png      0..NUM_CLASSES-1, 255 void
    <root>/synthetic.json                                how this data set was made

The names are those of COCO and its Detectron2 registrations (``panoptic_stuff_*`` of Panoptic FPN,
``panoptic_semseg_*`` of models with one label space), with ``train`` and ``val`` for ``train2017``
and ``val2017``; ``tune`` is for choices that must not be made on either.
``categories.separated_metadata`` and ``categories.panoptic_metadata`` give the metadata that fits.

Image n of a split is ``make_scene(seed, n - 1, size)`` for train, ``make_scene(seed, VAL_START + n
- 1, size)`` for val and the same from TUNE_START on for tune: a split does not change with the size
of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freqfusion.data.synthetic.arguments import check_choice, check_index, check_size
from freqfusion.data.synthetic.arrays import BoolArray
from freqfusion.data.synthetic.categories import LABEL_OF_ID, SEPARATED_LABEL_OF_ID
from freqfusion.data.synthetic.coco_files import SceneRecord, write_annotations
from freqfusion.data.synthetic.difficulty import Difficulty, check_difficulty
from freqfusion.data.synthetic.output import prepare_root, scene_note
from freqfusion.data.synthetic.parallel import check_workers, run_in_order
from freqfusion.data.synthetic.polygons import mask_polygons
from freqfusion.data.synthetic.records import (
    Box,
    areas_and_boxes,
    coloured_ids,
    crop_masks,
    whole_mask,
)
from freqfusion.data.synthetic.rle import encode
from freqfusion.data.synthetic.scenes import DETAILS, Scene, Segment, make_scene
from freqfusion.data.synthetic.splits import SPLITS, SceneNumber, check_splits, scene_numbers
from freqfusion.metrics.id_codec import id_to_rgb

MASK_FORMATS = ("polygon", "rle")
_FOLDERS = ("{}", "panoptic_{}", "panoptic_stuff_{}", "panoptic_semseg_{}")


@dataclass(frozen=True, slots=True)
class _SceneJob:
    root: Path
    number: SceneNumber
    size: tuple[int, int]
    mask_format: str
    detail: str
    difficulty: Difficulty


def write_coco(
    root: str | Path,
    *,
    num_train: int,
    num_val: int,
    num_tune: int = 0,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    workers: int | None = None,
    mask_format: str = "polygon",
    detail: str = "full",
    difficulty: Difficulty | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a data set in COCO layout (see the module's text) and return its folder.

    ``size`` is (height, width), ``detail`` and ``difficulty`` those of ``make_scene``; ``workers``
    None means one process a processor, and the files do not depend on it. A split of 0 scenes is
    not written. ValueError for impossible arguments, or for a ``root`` that is not empty and that
    ``overwrite`` does not allow to replace.
    """
    seed, size = check_index("seed", seed), check_size(size)
    splits = check_splits(num_train, num_val, num_tune)
    processes = check_workers(workers)
    check_choice("mask_format", mask_format, MASK_FORMATS)
    check_choice("detail", detail, DETAILS)
    dials = check_difficulty(Difficulty() if difficulty is None else difficulty)
    note = scene_note("coco", seed, size, splits, detail, dials) | {"mask_format": mask_format}
    folders = [name.format(split) for split in splits for name in _FOLDERS]
    owned = ["annotations", *(name.format(split) for split in SPLITS for name in _FOLDERS)]
    path = prepare_root(root, [*folders, "annotations"], note, owned=owned, overwrite=overwrite)
    jobs = [
        _SceneJob(path, number, size, mask_format, detail, dials)
        for number in scene_numbers(seed, splits)
    ]
    records = run_in_order(
        _write_scene, jobs, workers=processes, title="COCO scenes", progress=progress
    )
    for split in splits:
        chosen = [r for job, r in zip(jobs, records, strict=True) if job.number.split == split]
        write_annotations(path / "annotations", split, seed, chosen)
    return path


def _write_scene(job: _SceneJob) -> SceneRecord:
    """Paint one scene, write its four pictures and return its part of the JSON files."""
    split, image_id = job.number.split, job.number.position + 1
    key = job.number.seed, job.number.index, job.size
    scene = make_scene(*key, detail=job.detail, difficulty=job.difficulty)
    name = f"{image_id:012d}"
    Image.fromarray(scene.image).save(job.root / split / f"{name}.jpg", quality=95)
    ids = coloured_ids(scene)
    colors = id_to_rgb(np.array([0, *ids]))
    maps = {
        f"panoptic_{split}": colors[scene.panoptic],
        f"panoptic_stuff_{split}": scene.relabelled(SEPARATED_LABEL_OF_ID),
        f"panoptic_semseg_{split}": scene.relabelled(LABEL_OF_ID),
    }
    for folder, pixels in maps.items():
        Image.fromarray(pixels).save(job.root / folder / f"{name}.png", compress_level=4)
    height, width = job.size
    areas, boxes = areas_and_boxes(scene.panoptic, len(scene.segments))
    return SceneRecord(
        {"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height},
        _instances(scene, areas, boxes, image_id, job.mask_format),
        {
            "image_id": image_id,
            "file_name": f"{name}.png",
            "segments_info": _segments_info(scene, ids, areas, boxes),
        },
    )


def _instances(
    scene: Scene, areas: list[int], boxes: list[Box], image_id: int, mask_format: str
) -> list[dict[str, Any]]:
    """Instance annotations without their ids, which depend on the scenes before.

    Boxes and polygons are floats as in COCO: Detectron2 scales arrays of them in place, which
    would truncate integers.
    """
    size = scene.panoptic.shape[0], scene.panoptic.shape[1]
    return [
        {
            "image_id": image_id,
            "category_id": segment.category_id,
            "segmentation": _segmentation(segment, crop, box, size, mask_format),
            "area": area,
            "bbox": [float(value) for value in box.xywh()],
            "iscrowd": int(segment.iscrowd),
        }
        for area, (segment, box, crop) in zip(areas, crop_masks(scene, boxes), strict=True)
        if segment.is_thing
    ]


def _segmentation(
    segment: Segment, crop: BoolArray, box: Box, size: tuple[int, int], mask_format: str
) -> Any:
    if segment.iscrowd:
        return encode(whole_mask(crop, box, size), compressed=False)
    if mask_format == "rle":
        return encode(whole_mask(crop, box, size))
    return [
        [float(value) for x, y in polygon for value in (x + box.left, y + box.top)]
        for polygon in mask_polygons(crop)
    ]


def _segments_info(
    scene: Scene, ids: list[int], areas: list[int], boxes: list[Box]
) -> list[dict[str, Any]]:
    return [
        {
            "id": panoptic_id,
            "category_id": segment.category_id,
            "area": area,
            "bbox": box.xywh(),
            "iscrowd": int(segment.iscrowd),
        }
        for segment, panoptic_id, area, box in zip(scene.segments, ids, areas, boxes, strict=True)
    ]
