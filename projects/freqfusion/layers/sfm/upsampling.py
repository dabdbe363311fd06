"""Undo adaptive resampling: bring features of a modulated space back to the original one."""

import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice, check_map, check_positive
from freqfusion.layers.sfm.cells import CellInterpolation
from freqfusion.layers.sfm.coordinates import lattice_points_of
from freqfusion.layers.sfm.interpolation import interpolate_at
from freqfusion.layers.sfm.inversion import INTERPOLATION_OF, InverseGradient, InverseSolver
from freqfusion.layers.sfm.mapping import MappingStack


class NonUniformUpsample(nn.Module):
    """Read modulated features at the places where original pixels have gone.

    The coordinates of all stages are composed and the features read once. There is nothing to
    learn. Demodulate features or logits, never labels.

    Args:
        solver: How mappings are inverted, see
            :func:`~freqfusion.layers.sfm.inversion.invert_displacement`.
        interp: How features are read: ``"bilinear"`` with the solver ``"newton"``,
            ``"barycentric"`` with ``"search"``, which comes closest to the published qhull form.
        grad: ``"values"``: gradients reach the features only; ``"implicit"``: the mappings too.
        iters: Newton steps at most.
    """

    def __init__(
        self,
        *,
        solver: InverseSolver = "newton",
        interp: CellInterpolation = "bilinear",
        grad: InverseGradient = "values",
        iters: int = 20,
    ):
        super().__init__()
        check_choice(InverseSolver, solver=solver)
        check_choice(CellInterpolation, interp=interp)
        check_choice(InverseGradient, grad=grad)
        check_positive(iters=iters)
        if interp != INTERPOLATION_OF[solver]:
            raise ValueError(
                f"the solver {solver!r} inverts {INTERPOLATION_OF[solver]} mappings and would be "
                f"off with another reading: set interp to {INTERPOLATION_OF[solver]!r}, "
                f"got {interp!r}"
            )
        self.solver: InverseSolver = solver
        self.interp: CellInterpolation = interp
        self.grad: InverseGradient = grad
        self.iters = iters

    def forward(
        self, features: Tensor, mappings: MappingStack, out_size: tuple[int, int]
    ) -> Tensor:
        """Demodulate.

        Args:
            features: (B, C, H, W), the last downsampled map of the stack or one that covers the
                same area with another number of pixels.
            mappings: The stages that lie between the original space and the features. Without any,
                the features are resized bilinearly.
            out_size: Height and width of the output, which covers the first stage's lattice.

        Returns:
            (B, C, *out_size) in the dtype of ``features``.

        Raises:
            ValueError: if the arguments do not fit together.
        """
        check_map("features", features)
        if not mappings:
            return resize_bilinear(features, out_size)
        return self.read(features, self.locate(mappings, out_size), mappings)

    def locate(self, mappings: MappingStack, out_size: tuple[int, int]) -> Tensor:
        """Where the pixels of an original map have gone: normalised points (B, *out_size, 2)."""
        corners = {stage.align_corners for stage in mappings}
        if len(corners) != 1:
            raise ValueError(
                "mappings must be at least one, all with the same align_corners, "
                f"got {[stage.align_corners for stage in mappings]}"
            )
        points = lattice_points_of(mappings[0].displacement, out_size, corners.pop())
        return mappings.inverse(points, solver=self.solver, iters=self.iters, grad=self.grad)

    def read(self, features: Tensor, points: Tensor, mappings: MappingStack) -> Tensor:
        """Read features at points that :meth:`locate` has found."""
        return interpolate_at(
            features, points, interp=self.interp, align_corners=mappings[-1].align_corners
        )


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W); a map that has the size already is returned as it came."""
    if (image.shape[-2], image.shape[-1]) == tuple(size):
        return image
    resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    # Autocasting on a CPU resizes half precision in float32.
    return resized.to(image.dtype)
