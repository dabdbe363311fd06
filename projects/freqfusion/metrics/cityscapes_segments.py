"""The segments of a Cityscapes instance map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.metrics.cityscapes_labels import NUM_IDS
from freqfusion.metrics.labels import LabelArray

IntArray = NDArray[np.integer[Any]]
FIRST_INSTANCE = 1000


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
        """Which segments stand for a whole label, and not for an instance."""
        return self.ids < FIRST_INSTANCE

    def count(self, mask: NDArray[np.bool_]) -> IntArray:
        """Pixels of each segment in a mask of the map's size."""
        return np.bincount(self.index[mask], minlength=self.ids.size)


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
    labels = np.where(ids < FIRST_INSTANCE, ids, ids // FIRST_INSTANCE)
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
