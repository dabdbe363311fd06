"""What can be drawn over an image: a label map, a panoptic map, instances; classes of a data set.

Maps are height x width, of the image's size. Categories are any numbers; a prediction and a
ground truth that are compared must number them alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.drawing.colors import RGB, palette

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
                f"{len(self.names)} names and {len(self.colors)} colors: give each class both"
            )
        _check_map(self.labels, "labels")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < VOID or high >= len(self.names):
            raise ValueError(
                f"labels span {low}..{high}, but the classes are 0..{len(self.names) - 1} and"
                f" {VOID} is void; does the list of classes fit the data set?"
            )


@dataclass(frozen=True)
class PanopticSegment:
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
    segments: tuple[PanopticSegment, ...]


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
        """Return the name, with the score in percent where there is one."""
        name = f"{self.name} (crowd)" if self.is_crowd else self.name
        return name if self.score is None else f"{name} {100 * self.score:.0f}%"

    def extent(self) -> Box | None:
        """Return the box, or else that of the mask; None for an instance with no pixel."""
        if self.box is not None or self.mask is None:
            return self.box
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            return None
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)

    def area(self) -> float:
        """Return pixels of the mask, or of the box where there is no mask."""
        if self.mask is not None:
            return float(np.count_nonzero(self.mask))
        left, top, right, bottom = self.box or (0.0, 0.0, 0.0, 0.0)
        return max(right - left, 0) * max(bottom - top, 0)


def panoptic_map(ids: IntMap, segments: Iterable[PanopticSegment]) -> PanopticMap:
    """Return a panoptic map without loose ends.

    Segments without a pixel are left out, and pixels of no segment are void.
    """
    _check_map(ids, "ids")
    present = set(np.unique(ids).tolist())
    kept = tuple(one for one in segments if one.id in present and one.id != 0)
    known = np.isin(ids, [one.id for one in kept])
    return PanopticMap(np.where(known, ids, 0), kept)


def check_picture(image: Picture, size: tuple[int, ...] | None = None) -> None:
    """Raise ValueError unless ``image`` is height x width x 3, uint8, of the (height, width)."""
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


class Classes:
    """Names and colors of a data set's classes; where it has no colors, those of a palette.

    Things have the numbers 0.., and stuff those after them, also where Detectron2 lists all classes
    as stuff. In a "separated" data set the first stuff class, "things", stands for any of them.
    ``metadata`` is a mapping, or anything else with ``get``.
    """

    def __init__(self, metadata: Any) -> None:
        self.things: list[str] = list(metadata.get("thing_classes") or ())
        self.stuff: list[str] = list(metadata.get("stuff_classes") or ())
        spare = palette(len(self.things) + len(self.stuff))
        if self.stuff[: len(self.things)] == self.things:
            spare = [*spare[: len(self.things)], *spare]  # one label space: the same twice
        own, other = spare[: len(self.things)], spare[len(self.things) :]
        self.thing_colors = _colors(metadata.get("thing_colors"), own)
        self.stuff_colors = _colors(metadata.get("stuff_colors"), other[: len(self.stuff)])
        self._thing_ids = set((metadata.get("thing_dataset_id_to_contiguous_id") or {}).values())
        self.separated = self.stuff[:1] == ["things"]

    def label_map(self, labels: IntMap, count: int | None = None) -> LabelMap:
        """Return semantic labels; classes without a name are called by their number."""
        names, colors = list(self.stuff), list(self.stuff_colors)
        total = max(count or 0, len(names) if names else int(labels.max()) + 1)
        for label in range(len(names), total):
            names.append(f"class {label}")
            colors.append(palette(label + 1)[label])
        return LabelMap(labels, tuple(names), tuple(colors))

    def thing(self, label: int) -> str:
        """Return the name of a thing class."""
        return self.things[label] if label < len(self.things) else f"class {label}"

    def panoptic(self, ids: IntMap, infos: Iterable[Mapping[str, Any]]) -> PanopticMap:
        """Return a map of ids and Detectron2's ``segments_info`` with contiguous categories."""
        return panoptic_map(ids, [self._segment(info) for info in infos])

    def labels_of(self, panoptic: PanopticMap) -> LabelMap | None:
        """Return a panoptic map's semantic labels, where the label space has them all."""
        labels: IntMap = np.full(panoptic.ids.shape, VOID, dtype=np.int64)
        for one in panoptic.segments:
            label = one.category if one.is_thing else one.category - len(self.things)
            label = 0 if one.is_thing and self.separated else label
            if self.stuff[label : label + 1] != [one.name] and not (self.separated and not label):
                return None
            if not one.is_crowd:
                labels[panoptic.ids == one.id] = label
        return self.label_map(labels)

    def _segment(self, info: Mapping[str, Any]) -> PanopticSegment:
        label = int(info["category_id"])
        is_thing = bool(info.get("isthing", label in self._thing_ids))
        names, colors = (
            (self.things, self.thing_colors) if is_thing else (self.stuff, self.stuff_colors)
        )
        known = label < len(names)
        return PanopticSegment(
            id=int(info["id"]),
            category=label if is_thing else len(self.things) + label,
            name=names[label] if known else f"class {label}",
            color=colors[label] if known else palette(label + 1)[label],
            is_thing=is_thing,
            is_crowd=bool(info.get("iscrowd", 0)),
        )


def _colors(declared: Any, spare: list[RGB]) -> list[RGB]:
    colors = [(int(red), int(green), int(blue)) for red, green, blue in declared or ()]
    return colors if len(colors) >= len(spare) else spare
