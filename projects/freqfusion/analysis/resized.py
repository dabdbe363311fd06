"""Sums and products of a feature map at the size of a label map, without making it.

Resizing is linear: a sum over pixels is a weighted sum over cells, and the product of a pixel with
a vector is the resized product of the cells. The squared length of a pixel is a quadratic form in
the products of neighbouring cells. So the channels are touched at the map's own size only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice

ResizeMode = Literal["bilinear", "nearest"]

# Values that are made at a time.
_PIECE = 2**22


class ResizedMap:
    """A map (C, h, w) as ``F.interpolate`` would resize it to (H, W); computes in float64.

    Args:
        features: (C, h, w).
        size: (H, W).
        covered: The part of the map's height and width, from the top and the left, that the result
            shows: 1 but for a model whose input was padded below and on the right.
        mode: ``"bilinear"`` (corners not aligned) or ``"nearest"``.
    """

    def __init__(
        self,
        features: Tensor,
        size: tuple[int, int],
        covered: tuple[float, float] = (1.0, 1.0),
        mode: ResizeMode = "bilinear",
    ) -> None:
        check_choice(ResizeMode, mode=mode)
        if not all(0 < part <= 1 for part in covered):
            raise ValueError(f"covered must be two parts above 0 and up to 1, not {covered}")
        self.features, self.size = features, size
        places = zip(features.shape[1:], size, covered, strict=True)
        self._rows, self._columns = (
            _neighbours(before, after, part, mode, features.device)
            for before, after, part in places
        )

    def sums(self, place: Tensor, count: int) -> Tensor:
        """Sums (count, C) of the pixels in each place; ``place`` (H, W) is -1 for none."""
        if not count:
            return self.features.new_zeros(0, len(self.features), dtype=torch.float64)
        height, width = self.features.shape[1:]
        first = place.clamp_min(0) * (height * width)
        counts = (place >= 0).double()
        cells = counts.new_zeros(count * height * width)
        upper, lower, down = (part[:, None] for part in self._rows)
        left, right, along = self._columns
        for row, by_row in ((upper, 1 - down), (lower, down)):
            for column, by_column in ((left, 1 - along), (right, along)):
                where = first + (row * width + column)
                cells.index_add_(0, where.flatten(), (counts * by_row * by_column).flatten())
        weights = cells.view(count, -1).T
        parts = [part.double().flatten(1) @ weights for part in self._channels()]
        return torch.cat(parts).T

    def products(self, vectors: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Products with vectors (K, C), a few rows at a time.

        Yields the rows, the products (K, rows, W) and the lengths of the pixels (rows, W).
        """
        maps = vectors.new_zeros(len(vectors), *self.features.shape[1:])
        for part, ours in zip(self._channels(), vectors.split(self._step(), 1), strict=True):
            maps += torch.einsum("kc,chw->khw", ours, part.double())
        neighbours = self._neighbour_products()
        step = max(1, _PIECE // ((len(vectors) + len(neighbours)) * self.size[1]))
        for start in range(0, self.size[0], step):
            rows = slice(start, min(start + step, self.size[0]))
            yield rows, self._resized(maps, rows), self._squares(neighbours, rows).sqrt()

    def _step(self) -> int:
        """Channels that are converted at a time."""
        return max(1, _PIECE // max(1, self.features[0].numel()))

    def _channels(self) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = self.features.split(self._step())
        return parts

    def _resized(self, maps: Tensor, rows: slice) -> Tensor:
        upper, lower, share = (part[rows] for part in self._rows)
        piece = torch.lerp(maps[:, upper], maps[:, lower], share[:, None])
        left, right, share = self._columns
        return torch.lerp(piece[:, :, left], piece[:, :, right], share)

    def _neighbour_products(self) -> Tensor:
        """Of each cell a with the next ones, right b, below c, both d: aa, ab, ac, ad, bc."""
        total = self.features.new_zeros(5, *self.features.shape[1:], dtype=torch.float64)
        for part in self._channels():
            cell = part.double()
            right, below = _next(cell, 2), _next(cell, 1)
            both = _next(right, 1)
            pairs = ((cell, cell), (cell, right), (cell, below), (cell, both), (right, below))
            for product, (first, second) in zip(total, pairs, strict=True):
                product += (first * second).sum(0)
        return total

    def _squares(self, neighbours: Tensor, rows: slice) -> Tensor:
        """Squared lengths (rows, W) of the mean of four cells, weighted as in resizing."""
        upper, lower, down = (part[rows, None] for part in self._rows)
        left, right, along = self._columns
        length, across, below, falling, rising = neighbours
        top = (
            (1 - along) ** 2 * length[upper, left]
            + along**2 * length[upper, right]
            + 2 * along * (1 - along) * across[upper, left]
        )
        bottom = (
            (1 - along) ** 2 * length[lower, left]
            + along**2 * length[lower, right]
            + 2 * along * (1 - along) * across[lower, left]
        )
        mixed = (
            (1 - along) ** 2 * below[upper, left]
            + along**2 * below[upper, right]
            + along * (1 - along) * (falling[upper, left] + rising[upper, left])
        )
        squares: Tensor = (1 - down) ** 2 * top + down**2 * bottom + 2 * down * (1 - down) * mixed
        return squares.clamp_min(0)  # rounding


def _next(maps: Tensor, axis: int) -> Tensor:
    """Every cell's next one on an axis, the last one its own."""
    size = maps.shape[axis]
    last = maps.narrow(axis, size - 1, 1)
    return torch.cat((maps.narrow(axis, 1, size - 1), last), dim=axis)


def _neighbours(
    before: int, after: int, part: float, mode: ResizeMode, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of each output pixel on an axis, and the share of the second."""
    step = before * part / after
    out = torch.arange(after, device=device, dtype=torch.float64)
    if mode == "nearest":
        first = (out * step).floor().long().clamp_max(before - 1)
        return first, first, torch.zeros_like(out)
    place = ((out + 0.5) * step - 0.5).clamp(0, before - 1)
    first = place.floor().long()
    return first, (first + 1).clamp_max(before - 1), place - first
