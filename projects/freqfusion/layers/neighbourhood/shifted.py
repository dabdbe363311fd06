"""Shift-and-add: one multiply-add of a whole map per tap, for any device, ratio and dilation.

Nothing the size of the unfolded features ever exists. On a CPU the work is cut into tiles that stay
in a core's cache; elsewhere one tile holds everything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import (
    Geometry,
    accumulation_dtype,
    add_window,
    empty_output,
    read_window,
    store_window,
)

# Elements of a map in one tile on a CPU, for each thread: half a MiB in float32, so that features,
# weights and sum stay in a second-level cache of 2 MiB.
_TILE_ELEMENTS = 1 << 17
# The same where there is a sum for each tap.
_SUMS_ELEMENTS = 1 << 15
# Beyond so many threads tiles grow no more, since they are memory besides the results.
_THREADS = 8
# Elements of all the kernels in one tile, so that they too stay in cache from channel to channel.
_KERNEL_ELEMENTS = 1 << 18


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel."""
    output = empty_output(features, kernels.shape[-2:])
    features = features.unflatten(1, (geometry.groups, -1))
    kernels = kernels.unflatten(1, (geometry.groups, geometry.taps))
    values = output.unflatten(1, (geometry.groups, -1))
    for tile in _tiles(values, features.shape[-2:], geometry, _TILE_ELEMENTS):
        weights, target = tile.of_kernels(kernels), tile.of_values(values)
        # Summed where it belongs, unless that is in half precision or scattered over channels.
        in_place = target.dtype == weights.dtype and output.is_contiguous()
        total = target if in_place else torch.empty_like(target, dtype=weights.dtype)
        taps = zip(tile.neighbours(features), _by_tap(weights), strict=True)
        torch.mul(*next(taps), out=total)
        for neighbours, weight in taps:
            total.addcmul_(neighbours, weight)
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
    # Products of a few channels at a time are added up channel by channel, for all taps in one
    # call, and summed over those few channels at the end. There is one such sum for each tap,
    # hence smaller tiles.
    partial = values.new_empty(0)
    for tile in _tiles(values, features.shape[-2:], geometry, _SUMS_ELEMENTS):
        value, kernel = tile.of_values(values).to(dtype), tile.of_kernels(kernels)
        by_tap = kernel.movedim(2, 0)
        deep = value.shape[2]
        if deep == channels:
            for total, neighbours in zip(by_tap, tile.neighbours(features), strict=True):
                torch.sum(value * neighbours, 2, out=total)
            continue
        if tile.channels.start == 0:
            partial = value.new_zeros((geometry.kernel_size, geometry.kernel_size, *value.shape))
        partial[:, :, :, :, :deep].addcmul_(value, tile.all_neighbours(features))
        if tile.channels.stop >= channels:
            torch.sum(partial.flatten(0, 1), 3, out=by_tap)
    return kernels.flatten(1, 2)


def scatter(values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel.

    The adjoint of :func:`gather` in the features, whose height and width, margin included, are
    ``size``.
    """
    values = values.unflatten(1, (geometry.groups, -1))
    kernels = kernels.unflatten(1, (geometry.groups, geometry.taps))
    shape, dtype = (*values.shape[:3], *size), accumulation_dtype(values.dtype)
    tiles = list(_tiles(values, size, geometry, _TILE_ELEMENTS))
    # Tiles of all lines cover all features and do not overlap: nothing is cleared or added to.
    is_apart = all(tile.is_whole(values, size) for tile in tiles)
    features = (values.new_empty if is_apart else values.new_zeros)(shape, dtype=dtype)
    for tile in tiles:
        value, weights = tile.of_values(values).to(dtype), tile.of_kernels(kernels)
        tile.spread(value, weights, features, is_apart)
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
        window = self._window(features)
        if self._is_one_lattice:
            yield from _each(self._views(window))
            return
        shifts = self.geometry.shifts
        for down in shifts:
            line = _pick(window, -2, self.rows, down, self.height)
            for right in shifts:
                yield _pick(line, -1, self.columns, right, self.width)

    def all_neighbours(self, features: Tensor) -> Tensor:
        """:meth:`neighbours` as one tensor (k, k, ...), a view where there is one lattice."""
        if self._is_one_lattice:
            return self._views(self._window(features))
        k = self.geometry.kernel_size
        stacked: Tensor = torch.stack(list(self.neighbours(features))).unflatten(0, (k, k))
        return stacked

    def spread(self, value: Tensor, weights: Tensor, features: Tensor, is_apart: bool) -> None:
        """The adjoint of :meth:`neighbours`: add the weighted value to every neighbour.

        ``is_apart``: no other tile adds to the same pixels, which are written, whatever they hold.
        """
        part = features[self.images, :, self.channels]
        window = part.new_zeros((*part.shape[:3], *self._window_size))
        for target, weight in zip(_each(self._views(window)), _by_tap(weights), strict=True):
            if self._is_one_lattice:
                target.addcmul_(value, weight)
            else:
                spread = _put(value * weight, -1, self.columns, self.width)
                spread = _put(spread, -2, self.rows, self.height)
                target.add_(spread)
        put = store_window if is_apart else add_window
        put(part, window, *self._corner)

    def _window(self, features: Tensor) -> Tensor:
        """The source pixels under the tile and within its reach, zero beyond the image."""
        part, dtype = features[self.images, :, self.channels], accumulation_dtype(features.dtype)
        return read_window(part, *self._corner, *self._window_size, dtype)

    def _views(self, window: Tensor) -> Tensor:
        """(k, k, ..., height, width): for each tap, the part of the window that it reads.

        All of them at once, since a call of torch takes about as long as the sum over a small tile.
        """
        step, k = self.geometry.dilation, self.geometry.kernel_size
        *outer, row, column = window.stride()
        return window.as_strided(
            (k, k, *window.shape[:-2], self.height, self.width),
            (step * row, step * column, *outer, row, column),
        )

    def is_whole(self, values: Tensor, size: Sequence[int]) -> bool:
        """Whether this tile has all lines of the output and, below them, of the features."""
        g = self.geometry
        inner = g.source_size(size[0], size[1])
        lines = range(*self.lines.indices(values.shape[-2]))
        return (
            len(lines) == values.shape[-2]
            and (self.height, self.width) == inner
            and g.margin <= g.reach
        )

    @property
    def _is_one_lattice(self) -> bool:
        return self.rows is None and self.columns is None

    @property
    def _window_size(self) -> tuple[int, int]:
        return self.height + 2 * self.geometry.reach, self.width + 2 * self.geometry.reach

    @property
    def _corner(self) -> tuple[int, int]:
        border = self.geometry.margin - self.geometry.reach
        return self.top + border, border


def _each(views: Tensor) -> Iterator[Tensor]:
    """(k, k, ...) tap by tap."""
    for line in views.unbind():
        yield from line.unbind()


def _by_tap(weights: Tensor) -> tuple[Tensor, ...]:
    """(B, G, taps, H, W) as (B, G, 1, H, W) for each tap."""
    return weights.unsqueeze(3).unbind(2)


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
    values: Tensor, size: Sequence[int], geometry: Geometry, elements: int
) -> Iterator[_Tile]:
    """Cut ``values`` (B, G, C / G, Ho, Wo) into tiles of about so many elements.

    ``size`` is that of the features, margin included.
    """
    batch, groups, channels, out_height, out_width = values.shape
    height, width = geometry.source_size(*size)
    device = values.device
    images, deep, high = batch, channels, out_height
    if device.type == "cpu":
        line = groups * out_width
        elements *= min(torch.get_num_threads(), _THREADS)
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
