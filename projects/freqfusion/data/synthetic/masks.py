"""What annotation files say of segments: exact areas, boxes, polygons, runs, panoptic ids.

Polygons follow the pixel edges. COCO's polygons cannot say "hole", so a hole is joined to the
outline around it by a slit of no width: the path goes along the slit, around the hole and back.
Corners have whole coordinates (the upper left pixel covers 0..1 x 0..1), and ``pycocotools`` draws
such a polygon back to exactly the same mask, however thin or holed it is. Two pixels that touch
only at a corner count as connected, so a thin slanted line is one polygon, not a hundred.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from freqfusion.data.synthetic.categories import CLASS_COLORS, LABEL_OF_ID
from freqfusion.data.synthetic.scenes import Scene, Segment
from freqfusion.data.synthetic.shapes import BoolArray, IdArray, IntArray, Window

Point = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Corners:
    """Corners of all outlines of a mask, in reading order; where two outlines touch, twice.

    Each corner has one level edge, to ``level[i]`` (always its neighbor in reading order), and
    one upright edge, to ``upright[i]``; ``edge[i]`` numbers the upright edges from left to right,
    top to bottom.
    """

    y: list[int]
    x: list[int]
    level: list[int]
    upright: list[int]
    edge: list[int]
    edge_keys: IntArray
    edge_stride: int


def mask_polygons(mask: BoolArray) -> list[list[Point]]:
    """Return one closed polygon, corners (x, y), for each 8-connected part of ``mask``."""
    if not mask.any():
        return []
    corners = _find_corners(mask)
    outer, holes = _trace(corners, mask)
    slits = _place_slits(corners, holes, mask)
    inner: dict[int, list[tuple[int, list[Point]]]] = defaultdict(list)
    # A slit leads to an outline that starts earlier in reading order: complete later holes first.
    for hole, (edge, row) in reversed(list(zip(holes, slits, strict=True))):
        inner[edge].append((row, _walk(hole, corners, inner)))
    return [_walk(loop, corners, inner) for loop in outer]


def _find_corners(mask: BoolArray) -> _Corners:
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), dtype=np.bool_)
    padded[1:-1, 1:-1] = mask
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    single = upper_left ^ upper_right ^ lower_left ^ lower_right
    touching = (
        (upper_left == lower_right) & (upper_right == lower_left) & (upper_left ^ upper_right)
    )
    y, x = np.nonzero(single | touching)
    twice = touching[y, x]
    flipped = np.repeat(twice & upper_left[y, x], 1 + twice)
    y, x = np.repeat(y, 1 + twice), np.repeat(x, 1 + twice)
    # Two by two, the corners of a row are the ends of level edges, and those of a column of upright
    # ones. The order of a double corner's copies in its column decides which edges go together.
    copy = np.zeros(len(y), dtype=np.int64)
    copy[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    order = np.lexsort((copy ^ flipped, y, x))
    upright, edge = np.empty(len(y), dtype=np.int64), np.empty(len(y), dtype=np.int64)
    upright[order[0::2]], upright[order[1::2]] = order[1::2], order[0::2]
    edge[order] = np.arange(len(y)) // 2
    stride = mask.shape[0] + 1
    return _Corners(
        y=y.tolist(),
        x=x.tolist(),
        level=(np.arange(len(y)) ^ 1).tolist(),
        upright=upright.tolist(),
        edge=edge.tolist(),
        edge_keys=x[order[0::2]] * stride + y[order[0::2]],
        edge_stride=stride,
    )


def _trace(corners: _Corners, mask: BoolArray) -> tuple[list[list[int]], list[list[int]]]:
    """Follow the edges to loops: outlines clockwise, holes the other way, from the first corner."""
    level, upright = corners.level, corners.upright
    seen = bytearray(len(level))
    outer: list[list[int]] = []
    holes: list[list[int]] = []
    for start in range(len(level)):
        if seen[start]:
            continue
        loop: list[int] = []
        corner = start
        while not seen[corner]:
            across = level[corner]
            loop += (corner, across)
            seen[corner] = seen[across] = 1
            corner = upright[across]
        if mask[corners.y[start], corners.x[start]]:
            outer.append(loop)
        else:
            holes.append([start, *loop[:0:-1]])
    return outer, holes


def _place_slits(
    corners: _Corners, holes: list[list[int]], mask: BoolArray
) -> list[tuple[int, int]]:
    """For each hole, the upright edge met by a slit from its first corner to the left; its row."""
    slits = []
    for hole in holes:
        y, x = corners.y[hole[0]], corners.x[hole[0]]
        background = np.flatnonzero(~mask[y, :x])
        meets = int(background[-1]) + 1 if len(background) else 0
        key = meets * corners.edge_stride + y
        slits.append((int(np.searchsorted(corners.edge_keys, key, side="right")) - 1, y))
    return slits


def _walk(
    loop: list[int], corners: _Corners, inner: dict[int, list[tuple[int, list[Point]]]]
) -> list[Point]:
    """Return points of a loop, and of the holes whose slits meet it, without repeated points."""
    if not inner:
        return [(corners.x[corner], corners.y[corner]) for corner in loop]
    path: list[Point] = []
    for point in _steps(loop, corners, inner):
        if not path or path[-1] != point:
            path.append(point)
    while len(path) > 1 and path[-1] == path[0]:
        path.pop()
    return path


def _steps(
    loop: list[int], corners: _Corners, inner: dict[int, list[tuple[int, list[Point]]]]
) -> Iterator[Point]:
    x, y, edge = corners.x, corners.y, corners.edge
    for corner, following in zip(loop, loop[1:] + loop[:1], strict=True):
        yield x[corner], y[corner]
        if edge[corner] == edge[following] and edge[corner] in inner:
            upwards = y[following] < y[corner]
            for row, hole in sorted(inner[edge[corner]], reverse=upwards):
                yield x[corner], row
                yield from hole
                yield hole[0]
                yield x[corner], row


def areas_and_boxes(ids: IdArray, count: int) -> tuple[list[int], list[Window]]:
    """Return pixel counts and tight boxes of ids 1..``count``, each of which occurs in the map."""
    height, width = ids.shape
    rows = _extent(ids * height + np.arange(height, dtype=np.int32)[:, None], count, height)
    columns = _extent(ids * width + np.arange(width, dtype=np.int32), count, width)
    areas = np.bincount(ids.ravel(), minlength=count + 1)
    boxes = [
        Window(top, left, bottom - top, right - left)
        for (top, bottom), (left, right) in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return areas[1:].tolist(), boxes


def crop_masks(scene: Scene, boxes: list[Window]) -> Iterator[tuple[Segment, Window, BoolArray]]:
    """Yield each segment with its box and its mask within the box."""
    for segment, box in zip(scene.segments, boxes, strict=True):
        yield segment, box, scene.panoptic[box.slices] == segment.id


def colored_ids(scene: Scene) -> list[int]:
    """Return an id for each segment: its category's color as R + 256 G + 65536 B, plus 0, 1, ..."""
    used: dict[int, int] = {}
    ids = []
    for segment in scene.segments:
        red, green, blue = CLASS_COLORS[LABEL_OF_ID[segment.category_id]]
        nth = used.get(segment.category_id, 0)
        used[segment.category_id] = nth + 1
        ids.append(red + 256 * green + 65536 * blue + nth)
    return ids


def _extent(keys: IdArray, count: int, length: int) -> IntArray:
    """First occupied position and the one after the last (count x 2); keys are id * length + it."""
    occupied = np.bincount(keys.ravel(), minlength=(count + 1) * length)
    taken = occupied.reshape(count + 1, length)[1:] > 0
    return np.stack([taken.argmax(axis=1), length - taken[:, ::-1].argmax(axis=1)], axis=1)


def run_lengths(mask: BoolArray) -> list[int]:
    """Return the lengths of the runs down a mask's columns, background first, as in COCO's RLE."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if flat.size and flat[0] else [0]
    return [int(length) for length in np.diff(np.concatenate([start, changes, [flat.size]]))]
