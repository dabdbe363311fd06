"""Weighted sums of bilinear samples on a CPU by ``compiled_sampling.cpp``.

Shapes: queries lie on ``lines`` x ``places``; each of a query's heads reads ``levels`` x ``points``
samples of its own D channels of the maps, which have S pixels together::

    maps       (B, heads * D, H, W)                               one level
               (B, heads * D, 1, S)                               any number of them
    locations  (B, lines, places, heads, levels * points, 2)      x, y
    weights    (B, lines, places, heads, levels * points)
    values     (B, heads * D, lines, places)
"""

import ctypes
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from freqfusion.layers.neighbourhood.compiled import TYPES, Map, library
from freqfusion.layers.neighbourhood.geometry import memory_format_of

_READ, _SPREAD, _DIFFERENTIATE = range(3)


class _Numbers(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 6))


class _Call(ctypes.Structure):
    _numbers = ("locations", "weights", "of_locations", "of_weights")
    _sizes = (
        "batch",
        "heads",
        "channels",
        "height",
        "width",
        "lines",
        "places",
        "levels",
        "points",
    )
    _flags = ("operation", "type", "threads", "is_lattice")
    _fields_ = (
        *((name, Map) for name in ("maps", "values")),
        *((name, _Numbers) for name in _numbers),
        *((name, ctypes.c_int64) for name in _sizes),
        ("sizes", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in _flags),
    )


class Samples(NamedTuple):
    """Where samples lie, and what they count; without weights one each.

    Locations have 0 and 1 at the outer edges of a level, and zeros are read outside. On a lattice
    they are offsets instead, in queries, from the places of lines x places queries that cover the
    same image; the border is repeated.
    """

    shapes: Sequence[tuple[int, int]]  # height and width of each level
    locations: Tensor
    weights: Tensor | None = None
    is_lattice: bool = False


def read(maps: Tensor, samples: Samples) -> Tensor:
    """Return the weighted sum of the samples of every query in the type and format of the maps."""
    values = torch.empty(
        (*maps.shape[:2], *samples.locations.shape[1:3]),
        dtype=maps.dtype,
        memory_format=memory_format_of(maps),
    )
    _run(_READ, maps, values, samples)
    return values


def spread(values: Tensor, like: Tensor, samples: Samples) -> Tensor:
    """Return the gradient of maps, to which the result is alike, from that of the values."""
    maps = torch.empty(like.shape, dtype=like.dtype, memory_format=memory_format_of(like))
    _run(_SPREAD, maps, values, samples)
    return maps


def differentiate(values: Tensor, maps: Tensor, samples: Samples) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of locations and weights from that of what :func:`read` returned."""
    dtype = _dtype(maps, samples)
    of_locations = torch.zeros(samples.locations.shape, dtype=dtype)
    of_weights = None
    if samples.weights is not None:
        of_weights = torch.zeros(samples.weights.shape, dtype=dtype)
    _run(_DIFFERENTIATE, maps, values, samples, of_locations, of_weights)
    return of_locations, of_weights


def _dtype(maps: Tensor, samples: Samples) -> torch.dtype:
    is_double = torch.float64 in (maps.dtype, samples.locations.dtype)
    return torch.float64 if is_double else torch.float32


def _run(
    operation: int,
    maps: Tensor,
    values: Tensor,
    samples: Samples,
    of_locations: Tensor | None = None,
    of_weights: Tensor | None = None,
) -> None:
    if not values.numel() or not samples.locations.numel():
        (values if operation == _READ else maps).zero_()
        return
    dtype = _dtype(maps, samples)
    locations = samples.locations.to(dtype)
    weights = None if samples.weights is None else samples.weights.to(dtype)
    batch, lines, places, heads, number, _ = locations.shape
    sizes = [size for shape in samples.shapes for size in shape]
    call = _Call(
        maps=Map.of(maps), values=Map.of(values),
        locations=_numbers(locations), weights=_numbers(weights),
        of_locations=_numbers(of_locations), of_weights=_numbers(of_weights),
        batch=batch, heads=heads, channels=maps.shape[1] // heads,
        height=maps.shape[2], width=maps.shape[3], lines=lines, places=places,
        levels=len(samples.shapes), points=number // len(samples.shapes),
        sizes=ctypes.cast((ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_void_p),
        operation=operation, type=TYPES[dtype], threads=torch.get_num_threads(),
        is_lattice=samples.is_lattice,
    )  # fmt: skip
    loaded = library()
    assert loaded is not None
    loaded.freqfusion_sampling(ctypes.byref(call))


def _numbers(tensor: Tensor | None) -> _Numbers:
    if tensor is None:
        return _Numbers()
    return _Numbers(tensor.data_ptr(), (ctypes.c_int64 * 6)(*tensor.stride()))
