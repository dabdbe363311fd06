"""The label table of Cityscapes.

Ids, train ids, groups and colours are those of the data set (Cordts et al., "The Cityscapes Dataset
for Semantic Urban Scene Understanding", CVPR 2016). What the benchmark calls a category is called a
group here, since a category is a class in COCO's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.metrics.confusion import LabelArray

IGNORED_TRAIN_ID = 255


@dataclass(frozen=True, slots=True)
class CityscapesLabel:
    """One row of the label table; ``train_id`` is 255 (or -1) for what is not evaluated."""

    id: int
    train_id: int
    name: str
    group: str
    has_instances: bool
    color: tuple[int, int, int]

    @property
    def evaluated(self) -> bool:
        """Return whether pixels with this label as truth count."""
        return 0 <= self.train_id < IGNORED_TRAIN_ID


ALL_LABELS = (
    CityscapesLabel(0, 255, "unlabeled", "void", False, (0, 0, 0)),
    CityscapesLabel(1, 255, "ego vehicle", "void", False, (0, 0, 0)),
    CityscapesLabel(2, 255, "rectification border", "void", False, (0, 0, 0)),
    CityscapesLabel(3, 255, "out of roi", "void", False, (0, 0, 0)),
    CityscapesLabel(4, 255, "static", "void", False, (0, 0, 0)),
    CityscapesLabel(5, 255, "dynamic", "void", False, (111, 74, 0)),
    CityscapesLabel(6, 255, "ground", "void", False, (81, 0, 81)),
    CityscapesLabel(7, 0, "road", "flat", False, (128, 64, 128)),
    CityscapesLabel(8, 1, "sidewalk", "flat", False, (244, 35, 232)),
    CityscapesLabel(9, 255, "parking", "flat", False, (250, 170, 160)),
    CityscapesLabel(10, 255, "rail track", "flat", False, (230, 150, 140)),
    CityscapesLabel(11, 2, "building", "construction", False, (70, 70, 70)),
    CityscapesLabel(12, 3, "wall", "construction", False, (102, 102, 156)),
    CityscapesLabel(13, 4, "fence", "construction", False, (190, 153, 153)),
    CityscapesLabel(14, 255, "guard rail", "construction", False, (180, 165, 180)),
    CityscapesLabel(15, 255, "bridge", "construction", False, (150, 100, 100)),
    CityscapesLabel(16, 255, "tunnel", "construction", False, (150, 120, 90)),
    CityscapesLabel(17, 5, "pole", "object", False, (153, 153, 153)),
    CityscapesLabel(18, 255, "polegroup", "object", False, (153, 153, 153)),
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
    CityscapesLabel(29, 255, "caravan", "vehicle", True, (0, 0, 90)),
    CityscapesLabel(30, 255, "trailer", "vehicle", True, (0, 0, 110)),
    CityscapesLabel(31, 16, "train", "vehicle", True, (0, 80, 100)),
    CityscapesLabel(32, 17, "motorcycle", "vehicle", True, (0, 0, 230)),
    CityscapesLabel(33, 18, "bicycle", "vehicle", True, (119, 11, 32)),
    CityscapesLabel(-1, -1, "license plate", "vehicle", False, (0, 0, 142)),
)
CITYSCAPES_LABELS = tuple(label for label in ALL_LABELS if label.evaluated)
"""The labels that are evaluated, in the order of their train ids 0..18."""

INSTANCE_LABELS = tuple(label for label in CITYSCAPES_LABELS if label.has_instances)
"""Those of which instances are told apart."""

NUM_IDS = 34
"""Label maps hold the ids 0..33; the licence plate, -1, is in none."""

LABEL_OF_NAME = {label.name: label for label in CITYSCAPES_LABELS}


def id_table(
    values: dict[int, int] | dict[int, float], default: float, dtype: type[np.generic]
) -> NDArray[Any]:
    """Return an array with a value for each label id 0..33."""
    return np.array([values.get(number, default) for number in range(NUM_IDS)], dtype=dtype)


TRAIN_ID_OF_ID: NDArray[np.uint8] = id_table(
    {label.id: label.train_id for label in CITYSCAPES_LABELS}, IGNORED_TRAIN_ID, np.uint8
)
"""Train id of each label id, 255 for what is not evaluated."""


IntArray = NDArray[np.integer[Any]]
FIRST_INSTANCE = 1000
"""An instance has the value label * 1000 + number; anything below is a bare label."""


@dataclass(frozen=True)
class MapSegments:
    """Segments by increasing id, with their label ids and numbers of pixels.

    ``index`` has the size of the map and holds each pixel's position among the segments. ``bare``
    are those whose id is the label id itself: stuff, void, and groups of things.
    """

    ids: IntArray
    labels: IntArray
    sizes: IntArray
    index: IntArray

    @property
    def bare(self) -> NDArray[np.bool_]:
        """Return which segments stand for a whole label, and not for an instance."""
        return self.ids < FIRST_INSTANCE

    def count(self, mask: NDArray[np.bool_]) -> IntArray:
        """Return pixels of each segment in a mask of the map's size."""
        return np.bincount(self.index[mask], minlength=self.ids.size)


def label_ids(values: IntArray) -> NDArray[np.int64]:
    """Return the label id of each value of an instance map: an instance, or a bare label."""
    wide = values.astype(np.int64)
    return np.where(wide >= FIRST_INSTANCE, wide // FIRST_INSTANCE, wide)


def read_segments_of_map(instance_ids: LabelArray) -> MapSegments:
    """Segments of a height x width map of label ids, or label id * 1000 + number for an instance.

    ValueError for a map that is none, and for ids of unknown labels.
    """
    if (
        not np.issubdtype(instance_ids.dtype, np.integer)
        or instance_ids.ndim != 2
        or not instance_ids.size
    ):
        raise ValueError(
            "an instance map must be a height x width map of integer ids, not"
            f" {instance_ids.dtype} of shape {instance_ids.shape}"
        )
    lowest, highest = int(instance_ids.min()), int(instance_ids.max())
    if lowest < 0 or highest >= NUM_IDS * FIRST_INSTANCE:
        raise _unknown(lowest if lowest < 0 else highest)
    pixels = np.bincount(instance_ids.ravel())
    ids = np.flatnonzero(pixels)
    labels = label_ids(ids)
    if labels.max() >= NUM_IDS:
        raise _unknown(int(ids[labels >= NUM_IDS][0]))
    position = np.zeros(pixels.size, dtype=np.int32)
    position[ids] = np.arange(ids.size)
    return MapSegments(ids=ids, labels=labels, sizes=pixels[ids], index=position[instance_ids])


def _unknown(number: int) -> ValueError:
    last = NUM_IDS - 1
    return ValueError(
        f"unexpected id {number} in the instance map: allowed are label ids 0..{last}, and"
        f" label id * {FIRST_INSTANCE} + number; is it a file of instanceIds?"
    )
