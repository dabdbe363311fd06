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

from freqfusion.data.categories import json_entries
from freqfusion.data.synthetic.categories import (
    CATEGORIES,
    LABEL_OF_ID,
    SEPARATED_LABEL_OF_ID,
    SPLITS,
)
from freqfusion.data.synthetic.masks import (
    areas_and_boxes,
    colored_ids,
    crop_masks,
    mask_polygons,
    run_lengths,
)
from freqfusion.data.synthetic.scenes import Scene
from freqfusion.data.synthetic.writing import SceneJob, SceneSet, write_json, write_scenes
from freqfusion.metrics.id_codec import id_to_rgb

_FOLDERS = ("{}", "panoptic_{}", "panoptic_stuff_{}", "panoptic_semseg_{}")


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """What the JSON files say about one scene."""

    image: dict[str, Any]
    instances: list[dict[str, Any]]
    panoptic: dict[str, Any]


def write_coco(
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
    """Write a data set in COCO layout (see the module's text) and return its folder.

    ``size`` is (height, width), ``detail`` and ``line_thickness`` those of ``make_scene``;
    ``workers`` None means one process a processor, and the files do not depend on it. A split of 0
    scenes is not written. ValueError for impossible arguments, or for a ``root`` that is not empty
    and that ``overwrite`` does not allow to replace.
    """
    scenes = SceneSet(num_train, num_val, num_tune, seed, size, detail, line_thickness)
    path, records = write_scenes(
        _write_scene,
        "coco",
        root,
        scenes,
        folders=["annotations", *(f.format(split) for split in scenes.splits for f in _FOLDERS)],
        owned=["annotations", *(f.format(split) for split in SPLITS for f in _FOLDERS)],
        workers=workers,
        overwrite=overwrite,
        progress=progress,
    )
    for split, chosen in records.items():
        _write_annotations(path / "annotations", split, seed, chosen)
    return path


def _write_scene(job: SceneJob) -> SceneRecord:
    """Paint one scene, write its four images and return its part of the JSON files."""
    split, image_id = job.split, job.position + 1
    scene = job.paint()
    name = f"{image_id:012d}"
    Image.fromarray(scene.image).save(job.root / split / f"{name}.jpg", quality=95)
    ids = colored_ids(scene)
    colors = id_to_rgb(np.array([0, *ids]))
    maps = {
        f"panoptic_{split}": colors[scene.panoptic],
        f"panoptic_stuff_{split}": scene.relabeled(SEPARATED_LABEL_OF_ID),
        f"panoptic_semseg_{split}": scene.relabeled(LABEL_OF_ID),
    }
    for folder, pixels in maps.items():
        Image.fromarray(pixels).save(job.root / folder / f"{name}.png", compress_level=4)
    height, width = scene.panoptic.shape
    instances, segments = _entries(scene, ids, image_id)
    return SceneRecord(
        {"id": image_id, "file_name": f"{name}.jpg", "width": width, "height": height},
        instances,
        {"image_id": image_id, "file_name": f"{name}.png", "segments_info": segments},
    )


def _entries(
    scene: Scene, ids: list[int], image_id: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return instance annotations without their ids, which depend on earlier scenes, and segments.

    Boxes and polygons are floats as in COCO: Detectron2 scales arrays of them in place, which
    would truncate integers.
    """
    areas, boxes = areas_and_boxes(scene.panoptic, len(scene.segments))
    instances, segments = [], []
    for panoptic_id, area, (segment, box, crop) in zip(
        ids, areas, crop_masks(scene, boxes), strict=True
    ):
        common = {"category_id": segment.category_id, "area": area}
        crowd = {"iscrowd": int(segment.iscrowd)}
        segments.append({"id": panoptic_id, **common, "bbox": box.xywh(), **crowd})
        if not segment.is_thing:
            continue
        if segment.iscrowd:
            whole = scene.panoptic == segment.id
            mask: Any = {"size": list(whole.shape), "counts": run_lengths(whole)}
        else:
            mask = [
                [float(value) for x, y in polygon for value in (x + box.left, y + box.top)]
                for polygon in mask_polygons(crop)
            ]
        instances.append(
            {
                "image_id": image_id,
                "category_id": segment.category_id,
                "segmentation": mask,
                "area": area,
                "bbox": [float(value) for value in box.xywh()],
                **crowd,
            }
        )
    return instances, segments


def _write_annotations(folder: Path, split: str, seed: int, records: list[SceneRecord]) -> None:
    """Write ``instances_<split>.json`` and ``panoptic_<split>.json``; ids count from 1 on."""
    info = {
        "description": f"Synthetic scenes, {split}, seed {seed}",
        "url": "",
        "version": "1.0",
        "year": 2026,
        "contributor": "freqfusion",
        "date_created": "2026/01/01",
    }
    licenses = [
        {
            "id": 1,
            "name": "Apache License 2.0",
            "url": "https://www.apache.org/licenses/LICENSE-2.0",
        }
    ]
    images = [record.image | {"license": 1} for record in records]
    common = {"info": info, "licenses": licenses, "images": images}
    numbered = enumerate((entry for r in records for entry in r.instances), start=1)
    things = [
        {"id": c.id, "name": c.name, "supercategory": c.supercategory}
        for c in CATEGORIES
        if c.is_thing
    ]
    for kind, entries, categories in (
        ("instances", [{"id": number} | entry for number, entry in numbered], things),
        ("panoptic", [record.panoptic for record in records], json_entries(CATEGORIES)),
    ):
        content = common | {"annotations": entries, "categories": categories}
        write_json(folder / f"{kind}_{split}.json", content)
