"""Where a mapping has put each place: solve phi(m) = m + d(m) = o for m on a deformed lattice.

The method realises its non-uniform upsampling with qhull's triangulation of the scattered sample
positions (Chen et al., Spatial Frequency Modulation, TPAMI 2025, Eq. 17/18 by its model card). The
positions form a deformed regular lattice, so here the lattice is inverted instead, for whole
batches, on any device and at every place; both solvers are our design.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_floating, check_map, check_positive
from freqfusion.layers.sfm.cells import CellInterpolation, Cells, Jacobian
from freqfusion.layers.sfm.coordinates import lattice_points_of, to_normalized, to_pixels
from freqfusion.layers.sfm.solvers import LEAST_DETERMINANT, newton, search

InverseSolver = Literal["newton", "search"]
InverseGradient = Literal["values", "implicit"]

# Each solver inverts one interpolant exactly; what is read at the result must use the same.
INTERPOLATION_OF: dict[InverseSolver, CellInterpolation] = {
    "newton": "bilinear",
    "search": "barycentric",
}


def invert_displacement(
    displacement: Tensor,
    points: Tensor | None = None,
    *,
    out_size: tuple[int, int] | None = None,
    solver: InverseSolver = "newton",
    iters: int = 20,
    align_corners: bool = False,
    grad: InverseGradient = "values",
) -> tuple[Tensor, Tensor]:
    """Find the modulated positions m that are mapped to original positions o.

    Beyond the outermost pixel centres the mapping is continued by the displacement at the border,
    so that every place has an answer.

    Args:
        displacement: (B, 2, H, W), x then y, in pixels of its own lattice.
        points: (B, Ho, Wo, 2), the normalised positions o; by default the pixel centres of a map
            of ``out_size``.
        out_size: (Ho, Wo), by default (H, W).
        solver: ``"newton"``, safeguarded steps on the piecewise-bilinear mapping, or ``"search"``,
            all triangles of the cells within reach, whose work grows with the square of the
            largest displacement; it is meant as the reference.
        iters: Newton steps at most. On a CPU they end when all points have converged.
        align_corners: Meaning of normalised positions, as in ``grid_sample``.
        grad: ``"values"``: the positions are constants. ``"implicit"``: they have the gradients of
            the implicit function theorem in ``displacement`` and ``points``, and zero where the
            mapping has (nearly) folded.

    Returns:
        The normalised positions m (B, Ho, Wo, 2) and the distance of phi(m) from o (B, Ho, Wo) in
        pixels, which has no gradient. Both are float32 (float64 if an argument is).

    Raises:
        ValueError: if the arguments do not fit together.
    """
    check_choice(InverseSolver, solver=solver)
    check_choice(InverseGradient, grad=grad)
    check_positive(iters=iters)
    points = _check(displacement, points, out_size, align_corners)
    # Half precision cannot tell the pixels of a large map apart.
    dtype = torch.promote_types(points.dtype, displacement.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    displacement, points = displacement.to(dtype), points.to(dtype)
    if grad == "values":
        displacement, points = displacement.detach(), points.detach()
    height, width = displacement.shape[-2:]

    cells = Cells(displacement)
    wanted = to_pixels(points, (height, width), align_corners).flatten(1, 2).transpose(1, 2)
    goals = cells.inside(wanted).contiguous()
    with torch.no_grad():
        if solver == "newton":
            at = newton(cells, goals, iters)
        else:
            at = search(cells, goals, _reach(displacement))
    error, jacobian = cells.evaluate(at, goals, INTERPOLATION_OF[solver])
    error_x, error_y = error.detach().unbind(1)
    residual = (error_x * error_x + error_y * error_y).sqrt()
    if grad == "implicit":
        # One more Newton step that is zero but for its gradient: the Jacobian is held constant.
        constant = Jacobian(*(column.detach() for column in jacobian))
        determinant = constant.determinant
        step = constant.solve(error, determinant.clamp(min=LEAST_DETERMINANT))
        step = torch.where(determinant >= LEAST_DETERMINANT, step, 0)
        at = at - (step - step.detach())
    pixels = (at + (wanted - goals)).transpose(1, 2)
    normalized = to_normalized(pixels, (height, width), align_corners)
    return normalized.view_as(points), residual.view(points.shape[:-1])


def _reach(displacement: Tensor) -> int:
    """Cells within which the search must look."""
    largest = displacement.abs().max().item()
    if not math.isfinite(largest):
        raise ValueError("displacement must be finite, got infinite numbers or NaN")
    return min(math.ceil(largest), max(displacement.shape[-2:]))


def _check(
    displacement: Tensor,
    points: Tensor | None,
    out_size: tuple[int, int] | None,
    align_corners: bool,
) -> Tensor:
    """Refuse what does not fit; return the points (B, Ho, Wo, 2)."""
    check_map("displacement", displacement, 2)
    batch, _, height, width = displacement.shape
    if points is None:
        size = (height, width) if out_size is None else (out_size[0], out_size[1])
        check_positive(**{"the height of out_size": size[0], "the width of out_size": size[1]})
        return lattice_points_of(displacement, size, align_corners)
    if out_size is not None:
        raise ValueError("give points or out_size, not both: the points have a size of their own")
    check_floating(points=points)
    if points.dim() != 4 or points.shape[0] != batch or points.shape[-1] != 2:
        raise ValueError(
            f"points must be ({batch}, height, width, 2), x then y, got {tuple(points.shape)}"
        )
    if points.device != displacement.device:
        raise ValueError(
            "displacement and points must be on one device, got "
            f"{displacement.device} and {points.device}"
        )
    return points
