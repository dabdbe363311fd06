"""Which Cityscapes label stands for which category of the scenes."""

from __future__ import annotations

from freqfusion.metrics.cityscapes_labels import CITYSCAPES_LABELS, LABEL_OF_NAME, CityscapesLabel

__all__ = [
    "CITYSCAPES_LABELS",
    "STANDS_FOR",
    "UNLABELED_ID",
    "CityscapesLabel",
    "cityscapes_label",
]

UNLABELED_ID = 0

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
    """The Cityscapes label that stands for a category of the scenes."""
    return LABEL_OF_NAME[STANDS_FOR[category_name]]
