"""What the synthetic scenes show: names, ids, colors and the class labels made from them.

Three numberings, as in COCO:

* ``Category.id``: the id in the JSON files. Things have 1.., stuff 101..; the gap is there so that
  a missing id-to-label map shows at once, as it would on COCO (whose ids have gaps too).
* the semantic label: position in ``CATEGORIES``, things first, 0..NUM_CLASSES-1; 255 is void.
* the "separated" label of a Panoptic FPN semantic head: 0 for any thing, 1.. for stuff; 255 is
  void.
"""

from __future__ import annotations

from typing import Any

from freqfusion.data.categories import (
    Category,
    joint_metadata,
    panoptic_fpn_metadata,
    separated_labels,
)
from freqfusion.metrics.cityscapes_labels import LABEL_OF_NAME, CityscapesLabel

SPLITS = ("train", "val", "tune")

VOID_LABEL = 255


THING_CATEGORIES = (
    Category(1, "disc", "toy", True, (220, 60, 40)),
    Category(2, "star", "toy", True, (250, 190, 30)),
    Category(3, "box", "object", True, (40, 60, 150)),
    Category(4, "wheel", "object", True, (130, 20, 90)),
    Category(5, "pole", "structure", True, (150, 150, 160)),
    Category(6, "wire", "structure", True, (20, 10, 20)),
    Category(7, "tree", "plant", True, (20, 110, 40)),
)
STUFF_CATEGORIES = (
    Category(101, "sky", "outdoor", False, (110, 170, 225)),
    Category(102, "grass", "outdoor", False, (150, 220, 100)),
    Category(103, "road", "outdoor", False, (120, 70, 120)),
    Category(104, "water", "outdoor", False, (30, 130, 190)),
    Category(105, "wall", "building", False, (170, 90, 70)),
    Category(106, "fence", "building", False, (200, 160, 130)),
)
CATEGORIES = THING_CATEGORIES + STUFF_CATEGORIES
THIN_CATEGORIES = tuple(c for c in CATEGORIES if c.name in ("wheel", "pole", "wire", "fence"))
"""What is thin in scenes of every detail; trees are so only when they are bare."""

NUM_CLASSES = len(CATEGORIES)
CLASS_NAMES = tuple(category.name for category in CATEGORIES)
CLASS_COLORS = tuple(category.color or (0, 0, 0) for category in CATEGORIES)

LABEL_OF_ID = {category.id: label for label, category in enumerate(CATEGORIES)}
"""JSON category id -> semantic label."""

SEPARATED_LABEL_OF_ID = separated_labels(CATEGORIES)
"""JSON category id -> label of a semantic head that sees all things as one class."""

CATEGORY_OF_NAME = {category.name: category for category in CATEGORIES}


def panoptic_metadata() -> dict[str, Any]:
    """Detectron2 metadata for panoptic models with one label space (``panoptic_semseg_*`` maps).

    Things and stuff share the labels 0..NUM_CLASSES-1, so ``stuff_classes`` lists all classes.
    """
    joint, things = joint_metadata(CATEGORIES), len(THING_CATEGORIES)
    return joint | {
        "thing_classes": joint["thing_classes"][:things],
        "thing_colors": joint["thing_colors"][:things],
        "stuff_dataset_id_to_contiguous_id": dict(LABEL_OF_ID),
        "thin_classes": [category.name for category in THIN_CATEGORIES],
        "ignore_label": VOID_LABEL,
    }


def separated_metadata() -> dict[str, Any]:
    """Detectron2 metadata for Panoptic FPN (``panoptic_stuff_*`` maps; label 0 is any thing)."""
    thin = [category.name for category in THIN_CATEGORIES]
    return panoptic_fpn_metadata(CATEGORIES) | {"thin_classes": thin}


STANDS_FOR = {
    "disc": "person",
    "star": "rider",
    "box": "car",
    "wheel": "bicycle",
    "pole": "pole",
    "wire": "pole",
    "tree": "vegetation",
    "sky": "sky",
    "grass": "terrain",
    "road": "road",
    "water": "sidewalk",
    "wall": "wall",
    "fence": "fence",
}
"""Category of the scenes -> Cityscapes label.

Poles, wires and trees are things here but stuff in Cityscapes. Cityscapes has no water; the
sidewalk is the flat label that no other category uses.
"""


def cityscapes_label(category_name: str) -> CityscapesLabel:
    """Return the Cityscapes label that stands for a category of the scenes."""
    return LABEL_OF_NAME[STANDS_FOR[category_name]]
