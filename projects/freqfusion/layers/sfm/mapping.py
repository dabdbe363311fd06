"""What adaptive resampling has done to space, kept for undoing it after several stages.

Each stage moves the samples of a lattice by a displacement, phi(m) = m + d(m), and a strided layer
then takes every ``stride``-th of them. The spaces nest: points of the second stage's map lie in
the modulated space of the first. So coordinates are composed and features sampled once (our
design). Points are normalised, (..., 2), x then y, as ``grid_sample`` has them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from freqfusion.layers.checks import check_map, check_positive
from freqfusion.layers.sampling import lattice_points_of, sample_at, to_normalized, to_pixels
from freqfusion.layers.sfm.inversion import (
    Cells,
    InverseGradient,
    InverseSolver,
    invert_displacement,
)

# Keeps the sampling density finite where a mapping nearly folds.
_LEAST_DETERMINANT = 1e-2


@dataclass(frozen=True, eq=False)
class Mapping:
    """One stage: a displacement of a lattice, and the downsampling that follows it.

    Attributes:
        displacement: (B, 2, H, W), x then y, in pixels, float32 or float64.
        align_corners: Meaning of normalised points, as in ``grid_sample``.
        stride: Stride of the downsampling; 1 without any.
        phase: Pixel of the lattice that lies under pixel 0 of the downsampled map: for a
            convolution ``(kernel - 1) / 2 - padding``, so 0 for 3 x 3 with padding 1 and 0.5 for
            2 x 2 without. Assuming 0.5 where it is 0 costs thin objects.
        out_size: (height, width) of the downsampled map.
    """

    displacement: Tensor
    align_corners: bool
    stride: int
    phase: float
    out_size: tuple[int, int]

    def __post_init__(self) -> None:
        check_positive(
            **{
                "stride": self.stride,
                "height of out_size": self.out_size[0],
                "width of out_size": self.out_size[1],
            }
        )
        check_map("displacement", self.displacement, 2)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the lattice that is resampled."""
        return self.displacement.shape[-2], self.displacement.shape[-1]

    def forward_points(self, points: Tensor) -> Tensor:
        """phi: where points (B, h, w, 2) of the modulated lattice came from.

        Bilinear in the displacement, which is continued beyond the outermost nodes.
        """
        shift = sample_at(
            self.displacement, points, padding_mode="border", align_corners=self.align_corners
        )
        return points + normalized_shift(shift, self.size, self.align_corners)

    def inverse_points(
        self,
        points: Tensor,
        *,
        solver: InverseSolver = "newton",
        iters: int = 20,
        grad: InverseGradient = "values",
    ) -> Tensor:
        """The inverse of phi: where points (B, h, w, 2) have gone on the modulated lattice.

        For the options see :func:`~freqfusion.layers.sfm.inversion.invert_displacement`.
        """
        found, _ = invert_displacement(
            self.displacement,
            points,
            solver=solver,
            iters=iters,
            align_corners=self.align_corners,
            grad=grad,
        )
        return found

    def to_downsampled(self, points: Tensor) -> Tensor:
        """From points normalised on the lattice to the same places on the downsampled map."""
        pixels = (to_pixels(points, self.size, self.align_corners) - self.phase) / self.stride
        return to_normalized(pixels, self.out_size, self.align_corners)

    def from_downsampled(self, points: Tensor) -> Tensor:
        """From points normalised on the downsampled map to the same places on the lattice."""
        pixels = to_pixels(points, self.out_size, self.align_corners) * self.stride + self.phase
        return to_normalized(pixels, self.size, self.align_corners)

    def density_at(self, points: Tensor) -> Tensor:
        """Samples per original pixel at modulated points (B, h, w, 2), as (B, 1, h, w).

        One over the determinant of phi's Jacobian: 1 where nothing moves, more where the lattice
        has been drawn together; at most 100.
        """
        pixels = to_pixels(points, self.size, self.align_corners).flatten(1, 2).transpose(1, 2)
        cells = Cells(self.displacement)
        pixels = cells.inside(pixels)
        _, jacobian = cells.evaluate(pixels, pixels)
        density = 1 / jacobian.determinant.clamp(min=_LEAST_DETERMINANT)
        return density.view(points.shape[0], 1, *points.shape[1:3])

    def density(self, size: tuple[int, int]) -> Tensor:
        """Samples per original pixel on an original map of ``size``, as (B, 1, height, width)."""
        points = lattice_points_of(self.displacement, size, self.align_corners)
        return self.density_at(self.inverse_points(points))


class MappingStack(list[Mapping]):
    """The stages between the original space and a feature map, first stage first.

    An empty stack is the identity. In both directions ``upto`` says how many stages are passed, by
    default all; the original space is that of the first stage's lattice.
    """

    def forward(self, points: Tensor, upto: int | None = None) -> Tensor:
        """Where points of the last downsampled map (B, h, w, 2) lie in the original space."""
        for stage in reversed(self[:upto]):
            points = stage.forward_points(stage.from_downsampled(points))
        return points

    def inverse(
        self,
        points: Tensor,
        upto: int | None = None,
        *,
        solver: InverseSolver = "newton",
        iters: int = 20,
        grad: InverseGradient = "values",
    ) -> Tensor:
        """Where original points (B, h, w, 2) have gone on the last downsampled map."""
        for stage in self[:upto]:
            points = stage.inverse_points(points, solver=solver, iters=iters, grad=grad)
            points = stage.to_downsampled(points)
        return points

    def density_at(self, points: Tensor) -> Tensor:
        """Product of the stages' densities at original points (B, h, w, 2), as (B, 1, h, w).

        Strides are left out: 1 where no stage moves anything.
        """
        density = points.new_ones(points.shape[0], 1, *points.shape[1:3])
        for stage in self:
            points = stage.inverse_points(points)
            density = density * stage.density_at(points)
            points = stage.to_downsampled(points)
        return density


def normalized_shift(shift: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Displacements (B, 2, h, w) in pixels of a map of ``size`` in normalised units, channels last.

    An axis of one pixel has no extent with ``align_corners``; its displacements are zero anyway.
    """
    height, width = size
    if align_corners:
        height, width = max(height - 1, 1), max(width - 1, 1)
    return torch.stack([shift[:, 0] * (2 / width), shift[:, 1] * (2 / height)], dim=-1)
