"""Whole-number upscaling on a CPU as products of small matrices.

A source row is cut into runs of a few pixels. The ``scale`` x ``scale`` output pixels above each
pixel of a run read from the same window of source pixels, so that the run's outputs are::

    outputs (C, scale * run * scale) = window (C, K) @ band (K, scale * run * scale)
    with K = k * (run + k - 1),

where column j of the band holds the kernel of output pixel j, moved to where its neighbourhood
begins in the window, and zeros elsewhere. The zeros cost a factor of (run + k - 1) / k in
arithmetic; in return the work is done by the matrix product, the fastest thing a CPU has, and each
source pixel is read once for all of its outputs. Only a few source rows, and of wide maps only a
part of each, are held at a time.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import (
    Geometry,
    accumulation_dtype,
    add_window,
    empty_output,
    fill_window,
    read_window,
)

# Long enough that the output pixels above a run at scale 2, 32 numbers in a row, are copied by
# vector instructions, which torch does from 32 float32 numbers on.
_RUN = 16
# Source pixels of a row that are held at a time. Of longer rows fewer could be held, and the rows
# above and below them, which are read besides, would weigh more.
_BLOCK = 64
# Elements of the windows laid out at a time: 1.5 MiB in float32. Less is slower, since threads are
# started more often; more gains little, and counts beside the output of a small map.
_WINDOW_ELEMENTS = 3 << 17


def is_applicable(size: Sequence[int], out_size: Sequence[int], geometry: Geometry) -> bool:
    """Whether this form can compute the case: a whole upscaling, the last pixels cropped or not."""
    whole = all(geometry.is_whole(out, source) for out, source in zip(out_size, size, strict=True))
    return geometry.scale > 1 and geometry.dilation == 1 and whole


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel."""
    values = empty_output(features, kernels.shape[-2:])
    bands = _Bands(features, geometry)
    for part in bands.parts(features, kernels, values):
        band, windows = bands.load_kernels(part), bands.load_windows(part)
        bands.store_values(part, bands.outputs_of(windows, band))
    return values


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Dot product over channels of each output pixel with each of its neighbours."""
    kernels = values.new_empty(
        (values.shape[0], geometry.groups * geometry.taps, *values.shape[-2:]),
        dtype=accumulation_dtype(values.dtype),
    )
    bands = _Bands(features, geometry)
    for part in bands.parts(features, kernels, values):
        windows, outputs = bands.load_windows(part), bands.load_values(part)
        bands.store_kernels(part, windows, outputs)
    return kernels


def scatter(values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel."""
    features = values.new_zeros((*values.shape[:2], *size), dtype=accumulation_dtype(values.dtype))
    bands = _Bands(features, geometry)
    for part in bands.parts(features, kernels, values):
        band, outputs = bands.load_kernels(part), bands.load_values(part)
        bands.add_windows(part, outputs, band)
    return features


def gradients(
    values: Tensor, features: Tensor, kernels: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """:func:`scatter` to the size of the features, and :func:`correlate`.

    Together they rearrange the values, the largest of the maps, once in place of twice.
    """
    dtype = accumulation_dtype(values.dtype)
    spread = values.new_zeros(features.shape, dtype=dtype)
    products = values.new_empty(kernels.shape, dtype=dtype)
    bands = _Bands(spread, geometry)
    targets = bands.parts(spread, products, values)
    for part, target in zip(bands.parts(features, kernels, values), targets, strict=True):
        band, outputs = bands.load_kernels(part), bands.load_values(part)
        bands.add_windows(target, outputs, band)
        windows = bands.load_windows(part)
        bands.store_kernels(target, windows, outputs)
    return spread, products


class _Part(NamedTuple):
    """A block of source pixels of one image and channel group, ``rows`` high."""

    features: Tensor
    kernels: Tensor
    values: Tensor
    top: int
    left: int
    rows: int


class _Bands:
    """The layout of windows and bands for one pair of sizes, with the buffers that are reused.

    Layouts (rows and runs together are the batch of the matrix products)::

        windows (rows, runs, C, k, window)
        band    (rows, runs, k, window, scale, run, scale)
        outputs (rows, runs, C, scale, run, scale)
    """

    def __init__(self, features: Tensor, geometry: Geometry):
        self.geometry = geometry
        self.height, self.width = geometry.source_size(*features.shape[-2:])
        self.channels = features.shape[1] // geometry.groups
        k, scale = geometry.kernel_size, geometry.scale
        # Windows of every second run must not overlap, so that `add_windows` can add them at once.
        self.run = min(max(_RUN, 2 * geometry.reach), self.width)
        # The runs of a row in equal blocks; what the last one has beyond the image is dropped.
        all_runs = -(-self.width // self.run)
        self.runs = -(-all_runs // -(-all_runs // max(1, _BLOCK // self.run)))
        self.window = self.run + k - 1
        self.row_width = self.runs * self.run + k - 1
        row_elements = self.runs * self.channels * k * self.window
        self.rows = min(self.height, max(1, _WINDOW_ELEMENTS // row_elements))
        self.dtype = accumulation_dtype(features.dtype)
        band = (self.rows, self.runs, k, self.window, scale, self.run, scale)
        self.band = torch.zeros(band, dtype=self.dtype)
        # Made once: memory that is handed back and asked for again has to be cleared by the system.
        windows = (self.rows, self.runs, self.channels, k, self.window)
        self.windows = torch.empty(windows, dtype=self.dtype)
        strip = (self.channels, self.rows + k - 1, self.row_width)
        self.strip = torch.empty(strip, dtype=self.dtype)
        outputs = (self.rows * self.runs, self.channels, scale * self.run * scale)
        self.outputs = torch.empty(outputs, dtype=self.dtype)
        # Apart from the band, whose zeros must stay.
        self.products = torch.empty(band, dtype=self.dtype)

    def parts(self, features: Tensor, kernels: Tensor, values: Tensor) -> Iterator[_Part]:
        """Walk over images, groups and runs of rows."""
        g = self.geometry
        features = features.unflatten(1, (g.groups, self.channels))
        kernels = kernels.unflatten(1, (g.groups, g.kernel_size, g.kernel_size))
        values = values.unflatten(1, (g.groups, self.channels))
        for at in itertools.product(range(features.shape[0]), range(g.groups)):
            for top in range(0, self.height, self.rows):
                rows = min(self.rows, self.height - top)
                for left in range(0, self.width, self.runs * self.run):
                    yield _Part(features[at], kernels[at], values[at], top, left, rows)

    def load_windows(self, part: _Part) -> Tensor:
        """The windows of all runs, (rows * runs, C, k * window)."""
        border = self.geometry.margin - self.geometry.reach
        rows = part.rows + self.geometry.kernel_size - 1
        strip = self.strip[:, :rows]
        fill_window(strip, part.features, part.top + border, part.left + border)
        windows = self.windows[: part.rows]
        windows.copy_(self._windows_of(strip).permute(1, 2, 0, 3, 4))
        return windows.view(part.rows * self.runs, self.channels, -1)

    def outputs_of(self, windows: Tensor, band: Tensor) -> Tensor:
        """The output pixels of all runs, (rows * runs, C, scale * run * scale)."""
        return torch.bmm(windows, band, out=self.outputs[: len(windows)])

    def add_windows(self, part: _Part, outputs: Tensor, band: Tensor) -> None:
        """Add what the outputs give to their windows to the features those were cut from."""
        k = self.geometry.kernel_size
        strip = self.strip[:, : part.rows + k - 1].zero_()
        targets = self._windows_of(strip)
        windows = self.windows[: part.rows]
        torch.bmm(outputs, band.transpose(1, 2), out=windows.flatten(3).flatten(0, 1))
        windows = windows.permute(2, 0, 1, 3, 4)
        for dy in range(k):
            for parity in range(min(2, self.runs)):
                targets[:, :, parity::2, dy].add_(windows[:, :, parity::2, dy])
        border = self.geometry.margin - self.geometry.reach
        add_window(part.features, strip, part.top + border, part.left + border)

    def load_kernels(self, part: _Part) -> Tensor:
        """The band matrices, (rows * runs, k * window, scale * run * scale)."""
        kernels = self._padded_outputs(part.kernels, part)
        # (k, k, rows, scale, runs, run, scale) to the order of the diagonal. Gathering the rows
        # first and then copying one sub-column at a time keeps the innermost loop of the copies
        # long; it is four times as fast as one copy.
        kernels = kernels.transpose(1, 2).transpose(0, 1).contiguous().permute(0, 4, 1, 2, 3, 5, 6)
        for sub_column in range(self.geometry.scale):
            target = self._diagonal(self.band[: part.rows])[..., sub_column]
            target.copy_(kernels[..., sub_column])
        return self.band[: part.rows].flatten(4).flatten(2, 3).flatten(0, 1)

    def store_kernels(self, part: _Part, windows: Tensor, outputs: Tensor) -> None:
        """Write the diagonal of ``windows`` transposed times ``outputs``."""
        products = self.products[: part.rows]
        matrices = products.flatten(4).flatten(2, 3).flatten(0, 1)
        torch.bmm(windows.transpose(1, 2), outputs, out=matrices)
        self._store(part.kernels, part, self._diagonal(products).permute(2, 3, 0, 4, 1, 5, 6))

    def load_values(self, part: _Part) -> Tensor:
        """The output pixels of all runs, (rows * runs, C, scale * run * scale)."""
        values = self._padded_outputs(part.values, part)
        outputs = self.outputs[: part.rows * self.runs]
        shape = (part.rows, self.runs, self.channels, *values.shape[2:3], *values.shape[4:])
        outputs.view(shape).copy_(values.permute(1, 3, 0, 2, 4, 5))
        return outputs

    def store_values(self, part: _Part, outputs: Tensor) -> None:
        """Write the output pixels of all runs to where they belong."""
        scale = self.geometry.scale
        shape = (part.rows, self.runs, self.channels, scale, self.run, scale)
        self._store(part.values, part, outputs.view(shape).permute(2, 0, 3, 1, 4, 5))

    def _windows_of(self, strip: Tensor) -> Tensor:
        """All windows of a strip of source rows as a view (C, rows, runs, k, window)."""
        k = self.geometry.kernel_size
        return strip.unfold(2, self.window, self.run).unfold(1, k, 1).transpose(-1, -2)

    def _diagonal(self, band: Tensor) -> Tensor:
        """Of bands, what holds the kernels, (rows, runs, k, k, scale, run, scale).

        Pixel j of a run reads tap dx at place j + dx of the window: a diagonal.
        """
        k, shape = self.geometry.kernel_size, band.shape
        row, run, dy, place, sub_row, pixel, sub_column = band.stride()
        return band.as_strided(
            (*shape[:3], k, *shape[4:]), (row, run, dy, place, sub_row, place + pixel, sub_column)
        )

    def _outputs_above(self, image: Tensor, part: _Part) -> Tensor:
        """The output pixels above the part that the image (..., Ho, Wo) has."""
        scale = self.geometry.scale
        rows = slice(part.top * scale, (part.top + part.rows) * scale)
        columns = slice(part.left * scale, (part.left + self.runs * self.run) * scale)
        return image[..., rows, columns]

    def _padded_outputs(self, image: Tensor, part: _Part) -> Tensor:
        """The part's output rows, (..., rows, scale, runs, run, scale), zero beyond the image."""
        scale = self.geometry.scale
        lines = self._outputs_above(image, part)
        height, width = part.rows * scale, self.runs * self.run * scale
        if lines.shape[-2:] != (height, width):
            lines = read_window(lines, 0, 0, height, width, lines.dtype)
        runs = lines.unflatten(-1, (self.runs, self.run, scale))
        rows: Tensor = runs.unflatten(-4, (part.rows, scale))
        return rows

    def _store(self, image: Tensor, part: _Part, lines: Tensor) -> None:
        """Write (..., rows, scale, runs, run, scale) to the image, dropping what is beyond it."""
        target = self._outputs_above(image, part)
        scale = self.geometry.scale
        whole = (part.rows * scale, self.runs * self.run * scale)
        if target.shape[-2:] == whole:
            shape = lines.shape[-5:]
            target.unflatten(-1, shape[2:]).unflatten(-4, shape[:2]).copy_(lines)
        else:
            lines = lines.flatten(-3).flatten(-3, -2)
            target.copy_(lines[..., : target.shape[-2], : target.shape[-1]])
