"""Pixels and normalised coordinates of a lattice, as ``torch.nn.functional.grid_sample`` has them.

A point is (x, y) in the last dimension; pixel centres are at whole numbers. Without
``align_corners``, -1 and 1 are the outer edges of a map; with it, the centres of its border pixels.
"""

import torch
from torch import Tensor


def to_pixels(points: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Normalised points (..., 2) in pixels of a map of ``size`` (height, width).

    With ``align_corners``, all points lie at pixel 0 of an axis of one pixel.
    """
    axes = zip(points.unbind(-1), reversed(size), strict=True)
    if align_corners:
        return torch.stack([(point + 1) * ((length - 1) / 2) for point, length in axes], dim=-1)
    return torch.stack([(point + 1) * (length / 2) - 0.5 for point, length in axes], dim=-1)


def to_normalized(pixels: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Points (..., 2) in pixels of a map of ``size`` (height, width) as normalised points.

    With ``align_corners``, pixel 0 of an axis of one pixel is -1.
    """
    axes = zip(pixels.unbind(-1), reversed(size), strict=True)
    if align_corners:
        # An axis of one pixel has no extent.
        return torch.stack([pixel * (2 / max(length - 1, 1)) - 1 for pixel, length in axes], dim=-1)
    return torch.stack([(pixel + 0.5) * (2 / length) - 1 for pixel, length in axes], dim=-1)


def lattice_points(
    size: tuple[int, int],
    align_corners: bool = False,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """The normalised centres (H, W, 2) of the pixels of a map of ``size`` (height, width)."""
    return to_normalized(lattice_pixels(size, dtype=dtype, device=device), size, align_corners)


def lattice_points_of(
    displacement: Tensor, size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """:func:`lattice_points` for each image of a displacement: (B, H, W, 2), float32 or better."""
    dtype = torch.promote_types(displacement.dtype, torch.float32)
    points = lattice_points(size, align_corners, dtype=dtype, device=displacement.device)
    return points.expand(displacement.shape[0], -1, -1, -1)


def lattice_pixels(
    size: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """The centres (H, W, 2) of the pixels of a map of ``size`` (height, width), in pixels."""
    y, x = (torch.arange(length, dtype=dtype, device=device) for length in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
