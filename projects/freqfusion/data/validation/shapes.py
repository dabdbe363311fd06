"""Area and extent of masks as JSON has them, without drawing them: functions on numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.synthetic.rle import decompress

# Of all polygons of an object, many times what anyone draws: millions fill the memory in training.
MOST_POINTS = 100_000


@dataclass(frozen=True, slots=True)
class Shape:
    """Bounds of the area in pixels, and the box (left, top, right, bottom) around a mask."""

    least_area: float
    most_area: float
    box: tuple[float, float, float, float]


def polygon_area(points: NDArray[np.float64]) -> float:
    """Area inside a closed polygon (n x 2), by the shoelace formula."""
    x, y = _closed(points).T
    return float(abs(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2)


def polygon_shape(polygons: Sequence[NDArray[np.float64]]) -> Shape:
    """Shape of one or more polygons, which may overlap.

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
    return Shape(max(areas) - slack, sum(areas) + slack, (left, top, right, bottom))


def number_of_points(polygons: Sequence[Any]) -> int:
    """Count the points of all polygons, without a look at what they are."""
    return sum(len(polygon) // 2 for polygon in polygons if hasattr(polygon, "__len__"))


def _closed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([points, points[:1]])


def runs_of(mask: Mapping[str, Any]) -> NDArray[np.int64]:
    """Runs of a COCO RLE, compressed or not, background first; ValueError if they do not fit."""
    height, width = mask["size"]
    counts = mask["counts"]
    runs = decompress(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
    if (runs < 0).any():
        raise ValueError("a run is negative")
    if runs.sum() != height * width:
        raise ValueError(f"the runs cover {runs.sum()} of {height * width} pixels")
    return runs


def run_shape(runs: NDArray[np.int64], height: int) -> Shape | None:
    """Shape of runs down the columns of a mask; None for an empty one."""
    ends = np.cumsum(runs)
    first, last = ends[:-1:2], ends[1::2] - 1
    kept = last >= first
    first, last = first[kept], last[kept]
    if not len(first):
        return None
    area = float((last - first + 1).sum())
    # A run that goes on in the next column touches the bottom of one and the top of the other.
    within = first // height == last // height
    top = np.where(within, first % height, 0).min()
    bottom = np.where(within, last % height, height - 1).max() + 1
    left, right = (first // height).min(), (last // height).max() + 1
    return Shape(area - 1, area + 1, (float(left), float(top), float(right), float(bottom)))


def finite_numbers(values: Any) -> NDArray[np.float64] | None:
    """A flat list of finite numbers as an array; None for anything else."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.ndim == 1 and np.isfinite(array).all() else None
