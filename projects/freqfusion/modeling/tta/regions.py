"""Masks without their empty surroundings, so that those of many views fit into memory.

H x W is the size of the image, h x w that of the part of it that a mask fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Region:
    """A mask, cut out where its pixels are.

    Attributes:
        top: Row of the first pixel row.
        left: Column of the first pixel column.
        pixels: (h, w), bool, on the CPU; (0, 0) for an empty mask.
        area: Number of pixels.
    """

    top: int
    left: int
    pixels: Tensor
    area: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", int(self.pixels.sum()))

    @property
    def bottom(self) -> int:
        """Row behind the last one."""
        return self.top + self.pixels.shape[0]

    @property
    def right(self) -> int:
        """Column behind the last one."""
        return self.left + self.pixels.shape[1]

    def window(self, top: int, left: int, bottom: int, right: int) -> Tensor:
        """The part of ``pixels``, a view, in a window of the image that lies inside the region."""
        return self.pixels[top - self.top : bottom - self.top, left - self.left : right - self.left]

    def mirrored(self, width: int) -> Region:
        """The same in the mirrored image of this width."""
        return Region(self.top, width - self.right, self.pixels.flip(-1))


def cut_regions(masks: Tensor) -> list[Region]:
    """Regions of masks (N, H, W), bool, on any device."""
    # The largest byte says the same as any(), which is several times slower on a CPU.
    values = masks.view(torch.uint8)
    rows, columns = values.amax(dim=2).cpu(), values.amax(dim=1).cpu()
    return [
        _cut(mask, mask_rows, mask_columns)
        for mask, mask_rows, mask_columns in zip(masks, rows, columns, strict=True)
    ]


def overlap(first: Region, second: Region) -> float:
    """Intersection over union, 0 to 1; two empty regions are the same, 1."""
    if not first.area and not second.area:
        return 1.0
    window = (
        max(first.top, second.top),
        max(first.left, second.left),
        min(first.bottom, second.bottom),
        min(first.right, second.right),
    )
    if window[0] >= window[2] or window[1] >= window[3]:
        return 0.0
    shared = int((first.window(*window) & second.window(*window)).sum())
    return shared / (first.area + second.area - shared)


def weighted_majority(regions: Sequence[Region], weights: Sequence[float]) -> Region:
    """Where the regions that have a pixel weigh more than those that do not.

    Args:
        regions: At least one.
        weights: Above zero, one for each.
    """
    filled = [region for region in regions if region.area]
    if not filled:
        return regions[0]
    top, left = min(region.top for region in filled), min(region.left for region in filled)
    bottom = max(region.bottom for region in filled)
    right = max(region.right for region in filled)
    votes = torch.zeros(bottom - top, right - left, dtype=torch.float64)
    for region, weight in zip(regions, weights, strict=True):
        add_votes(votes, region, weight, top=top, left=left)
    return Region(top, left, votes > sum(weights) / 2)


def add_votes(
    votes: Tensor, region: Region, weight: float = 1, *, top: int = 0, left: int = 0
) -> None:
    """Add ``weight`` in place where a region is; ``votes`` begins at (top, left) of the image."""
    rows = slice(region.top - top, region.bottom - top)
    columns = slice(region.left - left, region.right - left)
    votes[rows, columns] += weight * region.pixels


def _cut(mask: Tensor, rows: Tensor, columns: Tensor) -> Region:
    """One mask (H, W), with the rows (H,) and columns (W,) that have pixels above zero."""
    if not rows.any():
        return Region(0, 0, torch.zeros(0, 0, dtype=torch.bool))
    filled_rows, filled_columns = rows.nonzero()[:, 0], columns.nonzero()[:, 0]
    top, bottom = int(filled_rows[0]), int(filled_rows[-1]) + 1
    left, right = int(filled_columns[0]), int(filled_columns[-1]) + 1
    # A clone, because a slice would keep the whole mask alive.
    return Region(top, left, mask[top:bottom, left:right].cpu().clone())
