"""What can be drawn over an image: a label map, a panoptic map, instances.

Maps are height x width, of the image's size. Categories are any numbers; a prediction and a truth
that are compared must number them alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.drawing.colors import RGB

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
IntMap = NDArray[np.integer[Any]]
Box = tuple[float, float, float, float]

VOID = -1


@dataclass(frozen=True)
class LabelMap:
    """A class for each pixel: its place in ``names`` and ``colors``; -1 is void."""

    labels: IntMap
    names: tuple[str, ...]
    colors: tuple[RGB, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colors):
            raise ValueError(
                f"{len(self.names)} names and {len(self.colors)} colours: give each class both"
            )
        _check_map(self.labels, "labels")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < VOID or high >= len(self.names):
            raise ValueError(
                f"labels span {low}..{high}, but the classes are 0..{len(self.names) - 1} and"
                f" {VOID} is void; does the list of classes fit the data set?"
            )


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map. A crowd is many things in one; it is never compared."""

    id: int
    category: int
    name: str
    color: RGB
    is_thing: bool = True
    is_crowd: bool = False


@dataclass(frozen=True)
class PanopticMap:
    """An id for each pixel, 0 for void, and what the segments are; see ``panoptic_map``."""

    ids: IntMap
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Instance:
    """One object: its mask, its box (left, top, right, bottom in pixels), or both."""

    category: int
    name: str
    mask: Mask | None = None
    box: Box | None = None
    score: float | None = None
    is_crowd: bool = False

    @property
    def caption(self) -> str:
        """The name, with the score in percent where there is one."""
        name = f"{self.name} (crowd)" if self.is_crowd else self.name
        return name if self.score is None else f"{name} {100 * self.score:.0f}%"

    def extent(self) -> Box | None:
        """The box, or else that of the mask; None for an instance with no pixel."""
        if self.box is not None or self.mask is None:
            return self.box
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)

    def area(self) -> float:
        """Pixels of the mask, or of the box where there is no mask."""
        if self.mask is not None:
            return float(np.count_nonzero(self.mask))
        left, top, right, bottom = self.box or (0.0, 0.0, 0.0, 0.0)
        return max(right - left, 0) * max(bottom - top, 0)


def panoptic_map(ids: IntMap, segments: Iterable[Segment]) -> PanopticMap:
    """A panoptic map without loose ends.

    Segments without a pixel are left out, and pixels of no segment are void.
    """
    _check_map(ids, "ids")
    present = set(np.unique(ids).tolist())
    kept = tuple(one for one in segments if one.id in present and one.id != 0)
    known = np.isin(ids, [one.id for one in kept])
    return PanopticMap(np.where(known, ids, 0), kept)


def check_picture(image: Picture, size: tuple[int, ...] | None = None) -> None:
    """ValueError unless ``image`` is height x width x 3, uint8, and has the (height, width)."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"a picture is height x width x 3 of uint8 (RGB), not {image.dtype} of shape"
            f" {image.shape}"
        )
    if size is not None and image.shape[:2] != tuple(size):
        raise ValueError(
            f"the image is {image.shape[0]} x {image.shape[1]} (height x width), but what is drawn"
            f" on it is {' x '.join(map(str, size))}; resize it to the image first"
        )


def _check_map(values: IntMap, what: str) -> None:
    if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(
            f"{what} must be a height x width map of integers, not {values.dtype} of shape"
            f" {values.shape}"
        )
