"""Read a map at given places: bilinearly, or from the three nodes of the triangle around them."""

from typing import NamedTuple

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_floating
from freqfusion.layers.sampling import nan_if_infinite, sample_at
from freqfusion.layers.sfm.cells import CellInterpolation
from freqfusion.layers.sfm.coordinates import to_pixels


def interpolate_at(
    features: Tensor,
    points: Tensor,
    *,
    interp: CellInterpolation = "bilinear",
    align_corners: bool = False,
) -> Tensor:
    """Read features at normalised points; beyond the outermost pixel centres they are constant.

    Read with the interpolant that the points were found with: ``"bilinear"`` after the solver
    ``"newton"``, ``"barycentric"`` after ``"search"``. Then data that are affine in the original
    position of their nodes come back exactly; a mixture of both is off by a good part of a pixel.

    Args:
        features: (B, C, H, W), any floating-point type.
        points: (B, Ho, Wo, 2), x then y, for example of
            :func:`~freqfusion.layers.sfm.invert_displacement`.
        interp: ``"bilinear"``: the four nodes of a cell. ``"barycentric"``: the three of the
            triangle (00, 01, 10) or (11, 10, 01).
        align_corners: Meaning of the points, as in ``grid_sample``.

    Returns:
        (B, C, Ho, Wo) in the dtype of ``features``; positions and sums are float32 or better. NaN
        where a coordinate is NaN or infinite.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    check_choice(CellInterpolation, interp=interp)
    check_points(features, points)
    if interp == "bilinear":
        output = sample_at(features, points, padding_mode="border", align_corners=align_corners)
        return output.to(features.dtype)
    dtype = torch.promote_types(features.dtype, points.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    wide, points = features.to(dtype), points.to(dtype)
    corners = triangle_corners(points, (wide.shape[-2], wide.shape[-1]), align_corners)
    output = (corners.read(wide) * corners.weights[:, None]).sum(2)
    return output.to(features.dtype)


class TriangleCorners(NamedTuple):
    """The nodes of the triangles around Ho x Wo points and the points' barycentric coordinates.

    ``x`` and ``y`` are whole pixels and ``weights`` sums to one over dimension 1; all are
    (B, 3, Ho, Wo). ``node`` counts the nodes row by row.
    """

    x: Tensor
    y: Tensor
    node: Tensor
    weights: Tensor

    def read(self, features: Tensor) -> Tensor:
        """The features (B, C, H, W) at the nodes: (B, C, 3, Ho, Wo)."""
        node = self.node.flatten(1)[:, None].expand(-1, features.shape[1], -1)
        values: Tensor = features.flatten(2).gather(2, node).unflatten(2, self.node.shape[1:])
        return values


def triangle_corners(
    points: Tensor, size: tuple[int, int], align_corners: bool = False
) -> TriangleCorners:
    """Find the triangles of a map of ``size`` (H, W) around normalised points (B, Ho, Wo, 2).

    Points beyond the outermost pixel centres are moved to the border. On an axis of one pixel all
    corners are that pixel.
    """
    height, width = size
    x, y = to_pixels(nan_if_infinite(points), size, align_corners).unbind(-1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    # Limited as whole numbers: what is not a number must not become an index.
    column = x.detach().floor().long().clamp(0, max(width - 2, 0))
    row = y.detach().floor().long().clamp(0, max(height - 2, 0))
    u, v = x - column, y - row
    second = u + v > 1
    weights = torch.where(
        second[:, None],
        torch.stack([u + v - 1, 1 - u, 1 - v], dim=1),
        torch.stack([1 - u - v, u, v], dim=1),
    )
    far = second.long()
    # Corners (00, 01, 10) of the first triangle and (11, 10, 01) of the second.
    columns = torch.stack([column + far, column + 1 - far, column + far], dim=1)
    rows = torch.stack([row + far, row + far, row + 1 - far], dim=1)
    columns, rows = columns.clamp(max=width - 1), rows.clamp(max=height - 1)
    return TriangleCorners(columns, rows, rows * width + columns, weights)


def check_points(features: Tensor, points: Tensor) -> None:
    """Refuse features and points that cannot be read together."""
    check_floating(features=features, points=points)
    if features.dim() != 4 or 0 in features.shape[2:]:
        raise ValueError(
            f"features must be (batch, channels, height, width), got {tuple(features.shape)}"
        )
    if points.dim() != 4 or points.shape[0] != features.shape[0] or points.shape[-1] != 2:
        raise ValueError(
            f"points must be ({features.shape[0]}, height, width, 2), x then y, "
            f"got {tuple(points.shape)}"
        )
    if features.device != points.device:
        raise ValueError(
            f"features and points must be on one device, got {features.device} and {points.device}"
        )
