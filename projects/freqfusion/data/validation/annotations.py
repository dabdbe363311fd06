"""Check objects of an image: boxes, polygons and run-length masks, without drawing them.

``check_entry`` is for the mapper: it refuses what cannot be trained on. ``annotation_issues`` is
for ``check_dataset``, which also compares box, area and mask with one another. What both refuse is
raised as a ``DatasetIssueError`` by the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.validation.issues import (
    DatasetIssue,
    DatasetIssueError,
    collect,
    error,
    format_size,
    unusable,
)

Size = tuple[int, int]
"""Height, width."""

FloatArray = NDArray[np.float64]

# Boxes are written with or without the last pixel, whole or rounded.
BOX_SLACK = 1.5
# Of the longer side of the image: farther outside, drawing a polygon takes forever.
_REACH = 10
# Of all polygons of an object, many times what anyone draws: millions fill the memory in training.
_MOST_POINTS = 100_000
# Of COCO's compressed runs: the character of 0, and the bits beside the five of a number.
_FIRST_CHARACTER, _MORE, _SIGN = 48, 0x20, 0x10


def check_entry(entry: Mapping[str, Any]) -> list[str]:
    """Return notes on objects that nothing can be learned from; ValueError for an unusable entry.

    ``entry`` is a dict of Detectron2's. Crowds are left unchecked, since nothing is learned from
    them. An object is named by its position among the ``annotations`` of the image, from 0.
    """
    file = entry.get("file_name")
    if not isinstance(file, str) or not file:
        raise ValueError(
            f"an image of the data set has no file_name; its image_id is {entry.get('image_id')!r}"
        )
    height, width = entry.get("height"), entry.get("width")
    size = None if height is None or width is None else (height, width)
    notes: list[str] = []
    for position, annotation in enumerate(entry.get("annotations", ())):
        if not annotation.get("iscrowd", 0):
            notes += _object_notes(annotation, size, f"object {position}", file)
    return notes


def annotation_issues(
    annotation: Mapping[str, Any], size: Size | None, file: str
) -> list[DatasetIssue]:
    """Return what is wrong with an annotation of an image of this size (None: unknown)."""
    who = describe(annotation)
    try:
        box = check_box(annotation.get("bbox"), who, file)
    except DatasetIssueError as raised:
        return [raised.args[0]]
    issues = list(_box_issues(box, size, who, file))
    shape: MaskShape | None = None
    with collect(issues):
        shape = _mask_shape(annotation.get("segmentation"), size, who, file)
    if shape is not None:
        issues += _shape_issues(annotation, box, shape, who, file)
    return issues


def describe(entry: Mapping[str, Any]) -> str:
    """Return ``annotation 7``, or name the annotation's image where it has no id of its own."""
    if "id" in entry:
        return f"annotation {entry['id']!r}"
    return f"the annotation of image {entry.get('image_id')!r}"


def check_box(value: Any, who: str, file: str) -> FloatArray:
    """Return a box as an array of four numbers."""
    box = finite_numbers(value)
    if box is None or len(box) != 4:
        found = f"{who} has the bbox {value!r}"
        raise unusable("malformed entry", file, found, "four numbers x, y, width, height")
    return box


def check_runs(
    mask: Mapping[str, Any], size: Size | None, who: str, file: str
) -> NDArray[np.int64]:
    """Return the runs of a COCO RLE, compressed or not, background first."""
    own, counts = finite_numbers(mask.get("size")), mask.get("counts")
    if own is None or len(own) != 2 or not isinstance(counts, str | bytes | list):
        found = f"{who} has a mask that is no run-length encoding"
        raise unusable("malformed entry", file, found, "size [height, width] and counts")
    if size is not None and own.tolist() != list(size):
        found = f"{who} has a run-length mask of the size {mask['size']}"
        raise unusable("run-length mask of a wrong size", file, found, format_size(size))
    try:
        return decode_runs(mask)
    except (ValueError, TypeError, OverflowError, IndexError) as reason:
        found = f"{who} has a run-length mask that cannot be decoded ({reason})"
        raise unusable("broken run-length mask", file, found, "runs that fill the mask") from reason


def check_polygons(polygons: Any, size: Size | None, who: str, file: str) -> list[FloatArray]:
    """Return polygons as arrays of their corners, n x 2."""
    if not isinstance(polygons, Sequence) or isinstance(polygons, str) or not polygons:
        found = f"{who} has the segmentation {polygons!r:.60}"
        raise unusable("malformed entry", file, found, "polygons or a run-length mask")
    points = sum(len(polygon) // 2 for polygon in polygons if hasattr(polygon, "__len__"))
    if points > _MOST_POINTS:
        found = f"{who} has {points} points in its polygons"
        raise unusable("degenerate polygon", file, found, f"at most {_MOST_POINTS}")
    reach = _REACH * max(size) if size else np.inf
    corners = []
    for number, polygon in enumerate(polygons):
        values = finite_numbers(polygon)
        if values is None or len(values) % 2:
            reason = "is no list of x, y, x, y, ..."
        elif len(values) < 6:
            reason = f"has {len(values) // 2} points"
        elif np.abs(values).max() > reach:
            reason = f"reaches {np.abs(values).max():g} pixels away from the image"
        else:
            corners.append(values.reshape(-1, 2))
            continue
        found = f"polygon {number} of {who} {reason}"
        raise unusable("degenerate polygon", file, found, "3 or more points around an area")
    return corners


def _object_notes(
    annotation: Mapping[str, Any], size: Size | None, who: str, file: str
) -> Iterator[str]:
    missing = [key for key in ("bbox", "bbox_mode", "category_id") if key not in annotation]
    if missing:
        raise ValueError(f"{file}: {who} lacks {', '.join(missing)}")
    category = annotation["category_id"]
    if not isinstance(category, int | np.integer) or category < 0:
        found = f"{who} has the category_id {category!r}"
        raise unusable("unknown category", file, found, "0 or a positive number")
    left, top, right, bottom = corners = _corners(annotation, who, file)
    sides = f"{who} has a box of width {right - left:g} and height {bottom - top:g}"
    if right < left or bottom < top:
        # The transforms would turn it over, which may or may not be what was meant.
        raise unusable("degenerate box", file, sides, "both above 0")
    if right == left or bottom == top:
        yield f"{sides}: it is left out"
    elif _is_outside(corners, size):
        yield f"{who} has a box outside of the image: it is left out"
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, Mapping):
        check_runs(segmentation, size, who, file)
    elif isinstance(segmentation, Sequence):
        polygons = check_polygons(segmentation, size, who, file)
        if all(_is_outside((*p.min(axis=0), *p.max(axis=0)), size) for p in polygons):
            yield f"{who} has no polygon within the image: its mask is empty"


def _corners(annotation: Mapping[str, Any], who: str, file: str) -> Sequence[float]:
    """Return left, top, right, bottom of a box of Detectron2's."""
    from detectron2.structures import BoxMode

    box = check_box(annotation["bbox"], who, file)
    mode = BoxMode(annotation["bbox_mode"])
    if mode not in (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS):
        found = f"{who} has a bbox of the mode {mode.name}"
        raise unusable("malformed entry", file, found, "XYXY_ABS or XYWH_ABS")
    return list(BoxMode.convert(box.tolist(), mode, BoxMode.XYXY_ABS))


def _is_outside(corners: Sequence[float], size: Size | None) -> bool:
    left, top, right, bottom = corners
    height, width = size or (np.inf, np.inf)
    return right <= 0 or bottom <= 0 or left >= width or top >= height


def _box_issues(box: FloatArray, size: Size | None, who: str, file: str) -> Iterator[DatasetIssue]:
    left, top, width, height = box.tolist()
    if width <= 0 or height <= 0:
        found = f"{who} has a bbox of width {width:g} and height {height:g}"
        yield error("degenerate box", file, found, "both above 0")
    if size is None:
        return
    outside = max(-left, -top, left + width - size[1], top + height - size[0])
    if outside > BOX_SLACK:
        found = f"{who} has the bbox {box.tolist()}, {outside:g} pixels outside of the image"
        yield error("box outside of the image", file, found, f"within {format_size(size)}")


def _mask_shape(segmentation: Any, size: Size | None, who: str, file: str) -> MaskShape | None:
    """Return the shape of polygons or runs; None where there is no segmentation."""
    if segmentation is None:
        return None
    if isinstance(segmentation, dict):
        shape = run_shape(segmentation, check_runs(segmentation, size, who, file))
        if shape is None:
            found = f"{who} has a run-length mask without a pixel"
            raise unusable("empty mask", file, found, "a pixel or more")
        return shape
    polygons = check_polygons(segmentation, size, who, file)
    for number, polygon in enumerate(polygons):
        if polygon_area(polygon) == 0:
            found = f"polygon {number} of {who} has no area"
            raise unusable("degenerate polygon", file, found, "3 or more points around an area")
    return polygon_shape(polygons)


def _shape_issues(
    annotation: Mapping[str, Any], box: FloatArray, shape: MaskShape, who: str, file: str
) -> Iterator[DatasetIssue]:
    area = annotation.get("area")
    if not isinstance(area, int | float):
        yield error("malformed entry", file, f"{who} has the area {area!r}", "a number of pixels")
    elif not shape.least_area <= area <= shape.most_area:
        expected = f"about {(shape.least_area + shape.most_area) / 2:.0f} as its mask has"
        yield error("wrong area", file, f"{who} has the area {area:g}", expected)
    left, top, width, height = box.tolist()
    off = np.abs(np.subtract((left, top, left + width, top + height), shape.box)).max()
    if off > BOX_SLACK:
        x0, y0, x1, y1 = shape.box
        found = f"{who} has the bbox {box.tolist()}"
        expected = f"about {[x0, y0, x1 - x0, y1 - y0]} as its mask spans"
        yield error("wrong bbox", file, found, expected)


@dataclass(frozen=True, slots=True)
class MaskShape:
    """Bounds of the area in pixels, and the box (left, top, right, bottom) around a mask."""

    least_area: float
    most_area: float
    box: tuple[float, float, float, float]


def polygon_area(points: FloatArray) -> float:
    """Return the area inside a closed polygon (n x 2), by the shoelace formula."""
    x, y = _closed(points).T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2)


def polygon_shape(polygons: Sequence[FloatArray]) -> MaskShape:
    """Return the shape of one or more polygons, which may overlap.

    Area may have been counted inside the outline or in pixels, which differ by up to half a pixel
    for each step along the outline; 1 % is left for rounded coordinates.
    """
    areas = [polygon_area(points) for points in polygons]
    steps = sum(
        float(np.abs(np.diff(_closed(points), axis=0)).max(axis=1).sum()) for points in polygons
    )
    slack = 1 + steps / 2 + 0.01 * sum(areas)
    corners = np.concatenate(polygons)
    left, top = corners.min(axis=0).tolist()
    right, bottom = corners.max(axis=0).tolist()
    return MaskShape(max(areas) - slack, sum(areas) + slack, (left, top, right, bottom))


def _closed(points: FloatArray) -> FloatArray:
    return np.concatenate([points, points[:1]])


def run_shape(mask: Mapping[str, Any], runs: NDArray[np.int64]) -> MaskShape | None:
    """Return the shape of a COCO RLE with these runs; None for an empty one."""
    from pycocotools import mask as coco_mask

    area = float(runs[1::2].sum())
    if not area:
        return None
    height, width = (int(side) for side in mask["size"])
    encoded = {"size": [height, width], "counts": mask["counts"]}
    if isinstance(mask["counts"], list):
        encoded = coco_mask.frPyObjects(encoded, height, width)
    left, top, width, height = coco_mask.toBbox(encoded).tolist()
    return MaskShape(area - 1, area + 1, (left, top, left + width, top + height))


def decode_runs(mask: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the runs of a COCO RLE, background first; ValueError if they do not fill it."""
    height, width = mask["size"]
    counts = mask["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("ascii")
    runs = decompress(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
    if (runs < 0).any():
        raise ValueError("a run is negative")
    if runs.sum() != height * width:
        raise ValueError(f"the runs cover {runs.sum()} of {height * width} pixels")
    return runs


def decompress(text: str) -> NDArray[np.int64]:
    """Return the runs of COCO's compressed string; ValueError when it ends within a number.

    Each run is written as its difference to the run two before it, five bits a character, lowest
    bits first. pycocotools reads beyond the end of a damaged string, so it is read here before.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text.encode("ascii"):
        digit = character - _FIRST_CHARACTER
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & _MORE:
            continue
        if digit & _SIGN:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value, shift = 0, 0
    if shift:
        raise ValueError(f"the compressed runs end within a number: ...{text[-8:]!r}")
    return np.array(counts, dtype=np.int64)


def finite_numbers(values: Any) -> FloatArray | None:
    """Return a flat list of finite numbers as an array; None for anything else."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.ndim == 1 and np.isfinite(array).all() else None
