"""What annotation files say about segments: exact areas and boxes, masks, panoptic ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from freqfusion.data.synthetic.arrays import BoolArray, IdArray, IntArray
from freqfusion.data.synthetic.categories import CATEGORIES
from freqfusion.data.synthetic.scenes import Scene, Segment

_COLOR_OF_ID = {category.id: category.color for category in CATEGORIES}


@dataclass(frozen=True, slots=True)
class Box:
    """The pixels from (left, top) on that a segment spans."""

    left: int
    top: int
    width: int
    height: int

    def xywh(self) -> list[int]:
        """COCO's order: x, y, width, height."""
        return [self.left, self.top, self.width, self.height]


def areas_and_boxes(ids: IdArray, count: int) -> tuple[list[int], list[Box]]:
    """Pixel counts and tight boxes of ids 1..``count``, each of which occurs in the map."""
    height, width = ids.shape
    rows = _extent(ids * height + np.arange(height, dtype=np.int32)[:, None], count, height)
    columns = _extent(ids * width + np.arange(width, dtype=np.int32), count, width)
    areas = np.bincount(ids.ravel(), minlength=count + 1)
    boxes = [
        Box(left, top, right - left, bottom - top)
        for (top, bottom), (left, right) in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return areas[1:].tolist(), boxes


def crop_masks(scene: Scene, boxes: list[Box]) -> Iterator[tuple[Segment, Box, BoolArray]]:
    """Each segment with its box and its mask within the box."""
    for segment, box in zip(scene.segments, boxes, strict=True):
        crop = scene.panoptic[box.top : box.top + box.height, box.left : box.left + box.width]
        yield segment, box, crop == segment.id


def whole_mask(crop: BoolArray, box: Box, size: tuple[int, int]) -> BoolArray:
    """A mask of the whole image from the one within its box."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[box.top : box.top + box.height, box.left : box.left + box.width] = crop
    return mask


def coloured_ids(scene: Scene) -> list[int]:
    """An id for each segment: its category's colour as R + 256 G + 65536 B, plus 0, 1, ..."""
    used: dict[int, int] = {}
    ids = []
    for segment in scene.segments:
        red, green, blue = _COLOR_OF_ID[segment.category_id]
        nth = used.get(segment.category_id, 0)
        used[segment.category_id] = nth + 1
        ids.append(red + 256 * green + 65536 * blue + nth)
    return ids


def _extent(keys: IdArray, count: int, length: int) -> IntArray:
    """First occupied position and the one after the last (count x 2); keys are id * length + it."""
    occupied = np.bincount(keys.ravel(), minlength=(count + 1) * length)
    taken = occupied.reshape(count + 1, length)[1:] > 0
    return np.stack([taken.argmax(axis=1), length - taken[:, ::-1].argmax(axis=1)], axis=1)
