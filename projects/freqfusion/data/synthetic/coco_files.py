"""The JSON files of COCO layout: instances and panoptic segments of one split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion.data.synthetic.categories import CATEGORIES
from freqfusion.data.synthetic.output import write_json


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """What the JSON files say about one scene."""

    image: dict[str, Any]
    instances: list[dict[str, Any]]
    panoptic: dict[str, Any]


def write_annotations(folder: Path, split: str, seed: int, records: list[SceneRecord]) -> None:
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
    instances = [
        {"id": number} | annotation
        for number, annotation in enumerate((a for r in records for a in r.instances), start=1)
    ]
    write_json(
        folder / f"instances_{split}.json",
        common | {"annotations": instances, "categories": _thing_entries()},
    )
    write_json(
        folder / f"panoptic_{split}.json",
        common | {"annotations": [r.panoptic for r in records], "categories": _all_entries()},
    )


def _thing_entries() -> list[dict[str, Any]]:
    return [
        {"id": c.id, "name": c.name, "supercategory": c.supercategory}
        for c in CATEGORIES
        if c.is_thing
    ]


def _all_entries() -> list[dict[str, Any]]:
    return [
        {
            "id": c.id,
            "name": c.name,
            "supercategory": c.supercategory,
            "isthing": int(c.is_thing),
            "color": list(c.color),
        }
        for c in CATEGORIES
    ]
