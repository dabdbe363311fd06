"""Shift-and-add: one multiply-add of a whole map per tap, for any device, ratio and dilation.

Nothing the size of the unfolded features ever exists. On a CPU the work is cut into tiles that stay
in a core's cache; elsewhere one tile holds everything.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import (
    Geometry,
    accumulation_dtype,
    add_window,
    empty_output,
    read_window,
)

# Elements of a map in one tile on a CPU: 1 MiB in float32. Two threads then hold their halves of
# features, weights and sum in second-level caches of 2 MiB, and are started seldom enough not to
# wait for each other.
_TILE_ELEMENTS = 1 << 18
# Elements of all the kernels in one tile, so that they too stay in cache from channel to channel.
_KERNEL_ELEMENTS = 1 << 17


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel."""
    output = empty_output(features, kernels.shape[-2:])
    features = features.unflatten(1, (geometry.groups, -1))
    kernels = kernels.unflatten(1, (geometry.groups, geometry.taps))
    values = output.unflatten(1, (geometry.groups, -1))
    for tile in _tiles(values, features, geometry):
        weights, target = tile.of_kernels(kernels), tile.of_values(values)
        # Summed where it belongs, unless that is in half precision or scattered over channels.
        in_place = target.dtype == weights.dtype and output.is_contiguous()
        total = target if in_place else torch.empty_like(target, dtype=weights.dtype)
        for tap, neighbours in enumerate(tile.neighbours(features)):
            if tap == 0:
                torch.mul(neighbours, weights[:, :, 0, None], out=total)
            else:
                total.addcmul_(neighbours, weights[:, :, tap, None])
        if not in_place:
            target.copy_(total)
    return output


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Dot product over channels of each output pixel with each of its neighbours.

    The adjoint of :func:`gather` in the kernels.
    """
    values = values.unflatten(1, (geometry.groups, -1))
    features = features.unflatten(1, (geometry.groups, -1))
    batch, groups, channels, height, width = values.shape
    dtype = accumulation_dtype(values.dtype)
    kernels = values.new_empty((batch, groups, geometry.taps, height, width), dtype=dtype)
    # Products of a few channels at a time are added up channel by channel, which is one
    # multiply-add each, and summed over those few channels at the end. There is one such sum for
    # each tap, hence smaller tiles.
    partial = values.new_empty(0)
    for tile in _tiles(values, features, geometry, _TILE_ELEMENTS // 4):
        value, kernel = tile.of_values(values).to(dtype), tile.of_kernels(kernels)
        deep = value.shape[2]
        if deep < channels and tile.channels.start == 0:
            partial = value.new_zeros((*value.shape[:2], geometry.taps, *value.shape[2:]))
        for tap, neighbours in enumerate(tile.neighbours(features)):
            if deep == channels:
                kernel[:, :, tap] = (value * neighbours).sum(2)
            else:
                partial[:, :, tap, :deep].addcmul_(value, neighbours)
        if deep < channels and tile.channels.stop >= channels:
            torch.sum(partial, 3, out=kernel)
    return kernels.flatten(1, 2)


def scatter(values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel.

    The adjoint of :func:`gather` in the features, whose height and width, margin included, are
    ``size``.
    """
    values = values.unflatten(1, (geometry.groups, -1))
    kernels = kernels.unflatten(1, (geometry.groups, geometry.taps))
    dtype = accumulation_dtype(values.dtype)
    features = values.new_zeros((*values.shape[:3], *size), dtype=dtype)
    for tile in _tiles(values, features, geometry):
        value, weights = tile.of_values(values).to(dtype), tile.of_kernels(kernels)
        tile.add_to_neighbours(features, value, weights)
    return features.flatten(1, 2)


@dataclass(frozen=True)
class _Tile:
    """Some images, some channels of every group, some output rows.

    ``rows`` and ``columns`` hold the source pixel under each output pixel, counted from ``top`` and
    from the left edge; ``None`` where output and source are the same lattice.
    """

    geometry: Geometry
    images: slice
    channels: slice
    lines: slice
    top: int
    rows: Tensor | None
    columns: Tensor | None
    height: int
    width: int

    def of_kernels(self, kernels: Tensor) -> Tensor:
        """This tile's kernels in accumulation precision; a view where that needs no cast."""
        return kernels[self.images, :, :, self.lines].to(accumulation_dtype(kernels.dtype))

    def of_values(self, values: Tensor) -> Tensor:
        """This tile's part of the output, a view."""
        return values[self.images, :, self.channels, self.lines]

    def neighbours(self, features: Tensor) -> Iterator[Tensor]:
        """For each tap, in row-major order, that neighbour of every output pixel."""
        geometry = self.geometry
        window = read_window(
            features[self.images, :, self.channels],
            *self._corner,
            self.height + 2 * geometry.reach,
            self.width + 2 * geometry.reach,
            accumulation_dtype(features.dtype),
        )
        for down in geometry.shifts:
            line = _pick(window, -2, self.rows, down, self.height)
            for right in geometry.shifts:
                yield _pick(line, -1, self.columns, right, self.width)

    def add_to_neighbours(self, features: Tensor, value: Tensor, weights: Tensor) -> None:
        """The adjoint of :meth:`neighbours`: add the weighted value to every neighbour."""
        geometry = self.geometry
        part = features[self.images, :, self.channels]
        height, width = self.height + 2 * geometry.reach, self.width + 2 * geometry.reach
        window = part.new_zeros((*part.shape[:3], height, width))
        shifts = itertools.product(geometry.shifts, geometry.shifts)
        for tap, (down, right) in enumerate(shifts):
            weight = weights[:, :, tap, None]
            target = window.narrow(-2, down, self.height).narrow(-1, right, self.width)
            if self.rows is None and self.columns is None:
                target.addcmul_(value, weight)
            else:
                spread = _put(value * weight, -1, self.columns, self.width)
                spread = _put(spread, -2, self.rows, self.height)
                target.add_(spread)
        add_window(part, window, *self._corner)

    @property
    def _corner(self) -> tuple[int, int]:
        border = self.geometry.margin - self.geometry.reach
        return self.top + border, border


def _pick(window: Tensor, dim: int, index: Tensor | None, shift: int, size: int) -> Tensor:
    if index is None:
        return window.narrow(dim, shift, size)
    return window.index_select(dim, index + shift)


def _put(values: Tensor, dim: int, index: Tensor | None, size: int) -> Tensor:
    """The adjoint of :func:`_pick` without its shift."""
    if index is None:
        return values
    shape = list(values.shape)
    shape[dim] = size
    return values.new_zeros(shape).index_add_(dim, index, values)


def _tiles(
    values: Tensor, features: Tensor, geometry: Geometry, elements: int = _TILE_ELEMENTS
) -> Iterator[_Tile]:
    """Cut ``values`` (B, G, C / G, Ho, Wo) into tiles of about so many elements."""
    batch, groups, channels, out_height, out_width = values.shape
    height, width = geometry.source_size(*features.shape[-2:])
    device = values.device
    images, deep, high = batch, channels, out_height
    if device.type == "cpu":
        line = groups * out_width
        high = _even_part(out_height, _KERNEL_ELEMENTS // (geometry.taps * line))
        deep = _even_part(channels, elements // (high * line))
        whole = high == out_height and deep == channels
        images = max(1, elements // (deep * high * line)) if whole else 1
    columns = rows = None
    if out_width != width:
        columns = geometry.source(torch.arange(out_width, device=device), out_width, width)
    for image in range(0, batch, images):
        for line in range(0, out_height, high):
            end = min(line + high, out_height)
            top = geometry.source(line, out_height, height)
            bottom = geometry.source(end - 1, out_height, height) + 1
            if out_height != height:
                index = torch.arange(line, end, device=device)
                rows = geometry.source(index, out_height, height) - top
            for channel in range(0, channels, deep):
                yield _Tile(
                    geometry,
                    slice(image, image + images),
                    slice(channel, channel + deep),
                    slice(line, end),
                    top,
                    rows,
                    columns,
                    bottom - top,
                    width,
                )


def _even_part(total: int, limit: int) -> int:
    """Size of the parts if ``total`` is cut into the fewest equal parts of at most ``limit``."""
    parts = -(-total // max(limit, 1))
    return -(-total // max(parts, 1))
