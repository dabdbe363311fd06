"""The labels of Cityscapes that are evaluated, and which of them stands for which category.

Ids, train ids, groups and colours are those of the Cityscapes data set (Cordts et al., CVPR 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

UNLABELED_ID = 0


@dataclass(frozen=True, slots=True)
class CityscapesLabel:
    """One row of the Cityscapes label table."""

    id: int
    train_id: int
    name: str
    group: str
    has_instances: bool
    color: tuple[int, int, int]


CITYSCAPES_LABELS = (
    CityscapesLabel(7, 0, "road", "flat", False, (128, 64, 128)),
    CityscapesLabel(8, 1, "sidewalk", "flat", False, (244, 35, 232)),
    CityscapesLabel(11, 2, "building", "construction", False, (70, 70, 70)),
    CityscapesLabel(12, 3, "wall", "construction", False, (102, 102, 156)),
    CityscapesLabel(13, 4, "fence", "construction", False, (190, 153, 153)),
    CityscapesLabel(17, 5, "pole", "object", False, (153, 153, 153)),
    CityscapesLabel(19, 6, "traffic light", "object", False, (250, 170, 30)),
    CityscapesLabel(20, 7, "traffic sign", "object", False, (220, 220, 0)),
    CityscapesLabel(21, 8, "vegetation", "nature", False, (107, 142, 35)),
    CityscapesLabel(22, 9, "terrain", "nature", False, (152, 251, 152)),
    CityscapesLabel(23, 10, "sky", "sky", False, (70, 130, 180)),
    CityscapesLabel(24, 11, "person", "human", True, (220, 20, 60)),
    CityscapesLabel(25, 12, "rider", "human", True, (255, 0, 0)),
    CityscapesLabel(26, 13, "car", "vehicle", True, (0, 0, 142)),
    CityscapesLabel(27, 14, "truck", "vehicle", True, (0, 0, 70)),
    CityscapesLabel(28, 15, "bus", "vehicle", True, (0, 60, 100)),
    CityscapesLabel(31, 16, "train", "vehicle", True, (0, 80, 100)),
    CityscapesLabel(32, 17, "motorcycle", "vehicle", True, (0, 0, 230)),
    CityscapesLabel(33, 18, "bicycle", "vehicle", True, (119, 11, 32)),
)

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

_BY_NAME = {label.name: label for label in CITYSCAPES_LABELS}


def cityscapes_label(category_name: str) -> CityscapesLabel:
    """The Cityscapes label that stands for a category of the scenes."""
    return _BY_NAME[STANDS_FOR[category_name]]
