"""The classes of a data set, with the labels and the metadata that Detectron2 makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from freqfusion.metrics.cityscapes_labels import CITYSCAPES_LABELS

_THINGS_COLOR = [82, 18, 128]


@dataclass(frozen=True, slots=True)
class Category:
    """One class; ``id`` is its number in the JSON files, ``color`` RGB, if it has one."""

    id: int
    name: str
    supercategory: str = ""
    is_thing: bool = False
    color: tuple[int, int, int] | None = None


CITYSCAPES_CATEGORIES = tuple(
    Category(label.id, label.name, label.group, label.has_instances, label.color)
    for label in CITYSCAPES_LABELS
)
"""The classes that Cityscapes evaluates, in the order of their train ids."""


def json_entries(categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Return the ``categories`` of a panoptic JSON."""
    return [
        {
            "id": category.id,
            "name": category.name,
            "supercategory": category.supercategory,
            "isthing": int(category.is_thing),
            "color": list(category.color or ()),
        }
        for category in categories
    ]


def separated_labels(categories: Sequence[Category]) -> dict[int, int]:
    """Return the label of each id where all things are 0, as in a Panoptic FPN; stuff from 1 on."""
    stuff = [category.id for category in categories if not category.is_thing]
    things = {category.id: 0 for category in categories if category.is_thing}
    return things | {number: label for label, number in enumerate(stuff, start=1)}


def joint_metadata(categories: Sequence[Category]) -> dict[str, Any]:
    """Return metadata of one label space: the label is the position in ``categories``."""
    labels = {category.id: label for label, category in enumerate(categories)}
    names = [category.name for category in categories]
    return {
        "thing_classes": names,
        "stuff_classes": names,
        "thing_dataset_id_to_contiguous_id": {c.id: labels[c.id] for c in categories if c.is_thing},
        "stuff_dataset_id_to_contiguous_id": {
            c.id: labels[c.id] for c in categories if not c.is_thing
        },
        **_colors(categories, categories, []),
    }


def panoptic_fpn_metadata(categories: Sequence[Category]) -> dict[str, Any]:
    """Return metadata of a Panoptic FPN: things and stuff are counted apart, stuff from 1.

    Fits ``register_coco_panoptic_separated``; dataset id 0 stands for "things", as in Detectron2's
    own COCO.
    """
    things = [category for category in categories if category.is_thing]
    stuff = [category for category in categories if not category.is_thing]
    labels = separated_labels(categories)
    return {
        "thing_classes": [category.name for category in things],
        "stuff_classes": ["things", *(category.name for category in stuff)],
        "thing_dataset_id_to_contiguous_id": {c.id: label for label, c in enumerate(things)},
        "stuff_dataset_id_to_contiguous_id": {0: 0} | {c.id: labels[c.id] for c in stuff},
        **_colors(things, stuff, [_THINGS_COLOR]),
    }


def _colors(
    things: Sequence[Category], stuff: Sequence[Category], before: list[list[int]]
) -> dict[str, Any]:
    """Return the colors if all classes have one."""
    if not all(category.color for category in (*things, *stuff)):
        return {}
    return {
        "thing_colors": [list(category.color or ()) for category in things],
        "stuff_colors": [*before, *(list(category.color or ()) for category in stuff)],
    }
