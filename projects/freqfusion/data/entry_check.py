"""What a data set says of one image, looked at before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from freqfusion.data.validation.shapes import (
    MOST_POINTS,
    finite_numbers,
    number_of_points,
    runs_of,
)

# Of the longer side of the image: farther outside, drawing a polygon takes forever.
_REACH = 10


def check_entry(entry: Mapping[str, Any]) -> list[str]:
    """Notes on objects that nothing can be learned from; ValueError where the entry is unusable.

    Crowds are left unchecked, since nothing is learned from them. Messages name an object by its
    position among the ``annotations`` of the image, from 0.
    """
    if not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
        raise ValueError(
            f"an image of the data set has no file_name; its image_id is {entry.get('image_id')!r}"
        )
    size = entry.get("height"), entry.get("width")
    notes: list[str] = []
    for position, annotation in enumerate(entry.get("annotations", ())):
        if not annotation.get("iscrowd", 0):
            try:
                notes += (f"object {position} {note}" for note in _check_object(annotation, size))
            except ValueError as error:
                raise ValueError(f"object {position} {error}") from error
    return notes


def _check_object(annotation: Mapping[str, Any], size: Sequence[int | None]) -> Iterator[str]:
    missing = [key for key in ("bbox", "bbox_mode", "category_id") if key not in annotation]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    category = annotation["category_id"]
    if not isinstance(category, int | np.integer) or category < 0:
        raise ValueError(f"has the category_id {category!r}, which must be 0 or a positive number")
    corners = _corners(annotation)
    yield from _box_notes(corners, size)
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        _check_runs(segmentation, size)
    elif isinstance(segmentation, Sequence):
        yield from _polygon_notes(segmentation, size)


def _corners(annotation: Mapping[str, Any]) -> list[float]:
    """Left, top, right, bottom."""
    values = finite_numbers(annotation["bbox"])
    if values is None or len(values) != 4:
        raise ValueError(f"has the bbox {annotation['bbox']!r}, which must be four finite numbers")
    mode = BoxMode(annotation["bbox_mode"])
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        raise ValueError(f"has a bbox of the mode {mode.name}; allowed are XYXY_ABS and XYWH_ABS")
    return list(BoxMode.convert(values.tolist(), mode, BoxMode.XYXY_ABS))


def _box_notes(corners: Sequence[float], size: Sequence[int | None]) -> Iterator[str]:
    left, top, right, bottom = corners
    if right < left or bottom < top:
        # The transforms would turn it over, which may or may not be what was meant.
        raise ValueError(f"has a box of width {right - left:g} and height {bottom - top:g}")
    if right == left or bottom == top:
        yield f"has a box of width {right - left:g} and height {bottom - top:g}: it is left out"
    elif _is_outside(corners, size):
        yield "has a box outside of the image: it is left out"


def _check_runs(mask: Mapping[str, Any], size: Sequence[int | None]) -> None:
    own = finite_numbers(mask.get("size"))
    counts = mask.get("counts")
    if own is None or len(own) != 2 or not isinstance(counts, str | bytes | list):
        raise ValueError("has a mask that is no run-length encoding (size and counts)")
    if None not in size and own.tolist() != list(size):
        raise ValueError(
            f"has a run-length mask of {own[0]:g} x {own[1]:g} (height x width), but the image is"
            f" {size[0]} x {size[1]}"
        )
    try:
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        runs_of({"size": mask["size"], "counts": text})
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise ValueError(f"has a run-length mask that cannot be decoded: {error}") from error


def _polygon_notes(polygons: Sequence[Any], size: Sequence[int | None]) -> Iterator[str]:
    reach = _REACH * max((side for side in size if side), default=0) or np.inf
    if not polygons:
        raise ValueError("has a segmentation without a polygon")
    points = number_of_points(polygons)
    if points > MOST_POINTS:
        raise ValueError(
            f"has {points} points in its polygons, and at most {MOST_POINTS} are read: take fewer,"
            " or a run-length mask"
        )
    corners = []
    for number, polygon in enumerate(polygons):
        values = finite_numbers(polygon)
        if values is None or len(values) % 2:
            raise ValueError(f"has a polygon ({number}) that is no list of finite x, y, x, y, ...")
        if len(values) < 6:
            raise ValueError(f"has a polygon ({number}) of {len(values) // 2} points; 3 are needed")
        if np.abs(values).max() > reach:
            raise ValueError(
                f"has a polygon ({number}) that reaches {np.abs(values).max():g} pixels away from"
                " the image"
            )
        x, y = values[::2], values[1::2]
        corners.append((x.min(), y.min(), x.max(), y.max()))
    if all(_is_outside(box, size) for box in corners):
        yield "has no polygon within the image: its mask is empty"


def _is_outside(box: Sequence[float], size: Sequence[int | None]) -> bool:
    left, top, right, bottom = box
    height, width = size
    return right <= 0 or bottom <= 0 or left >= (width or np.inf) or top >= (height or np.inf)
