"""Non-uniform upsampling: round trips, composed stages, phase, gradients, dtypes, clear errors."""

import pytest
import torch
import torch.nn.functional as F
from sfm_displacements import boundary_displacement, displacement_of, stack_of
from sfm_signals import band_limited

from freqfusion.layers.sampling import lattice_points, to_pixels
from freqfusion.layers.sfm.displacement import modulate
from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.upsampling import NonUniformUpsample

PAIRS = [("newton", "bilinear"), ("search", "barycentric")]


def same_lattice(displacement):
    """A stage without downsampling."""
    size = tuple(displacement.shape[-2:])
    return MappingStack([Mapping(displacement, False, 1, 0.0, size)])


@pytest.mark.parametrize(("solver", "interp"), PAIRS)
@pytest.mark.parametrize("fwhm", [3.0, 6.0])
@pytest.mark.parametrize(("cut_off", "bound"), [(0.05, 0.02), (0.10, 0.07)])
def test_round_trip(solver, interp, fwhm, cut_off, bound):
    """Invariant 7: modulate, demodulate; relative rms within 0.02 and 0.07.

    At a cut-off of 0.05 cycles per pixel the image that is not demodulated is at least four times
    as wrong.
    """
    image = band_limited(96, cut_off, batch=1, seed=3)
    displacement = boundary_displacement(96, fwhm=fwhm)
    modulated = modulate(image, displacement)
    module = NonUniformUpsample(solver=solver, interp=interp)
    error = (module(modulated, same_lattice(displacement), (96, 96)) - image).square().mean().sqrt()
    assert error <= bound * image.square().mean().sqrt()
    if cut_off == 0.05:
        assert (modulated - image).square().mean().sqrt() >= 4 * error


@pytest.mark.parametrize("phase", [0.0, 0.5])
@pytest.mark.parametrize("size", [(64, 96), (33, 47)])
def test_three_stages_are_undone(phase, size):
    """Invariant 13: Phi(Phi^-1(o)) is o within 1e-2 pixels of the first lattice."""
    stack = stack_of(size, phase=phase)
    goals = lattice_points(size).expand(1, -1, -1, -1)
    found = NonUniformUpsample().locate(stack, size)
    again = stack.forward(found)
    error = (to_pixels(again, size) - to_pixels(goals, size)).norm(dim=-1)
    assert error.max() <= 1e-2


def test_stages_are_composed_by_hand():
    """Two stages that move nothing: pixel o lies at (o - p) / 2 of each, so at (o - 3p) / 4.

    With the phase 0, pixels 0, 4 and 8 of nine are those of a map of three; 2 is half way.
    """
    stages = [((1, 9), (1, 5)), ((1, 5), (1, 3))]
    stack = MappingStack(
        Mapping(torch.zeros(1, 2, *size), False, 2, 0.0, out) for size, out in stages
    )
    features = torch.tensor([10.0, 20.0, 40.0]).view(1, 1, 1, 3)
    actual = NonUniformUpsample()(features, stack, (1, 9))
    expected = torch.tensor([10, 12.5, 15, 17.5, 20, 25, 30, 35, 40])
    torch.testing.assert_close(actual.flatten(), expected)


def test_without_mappings_features_are_resized():
    features = torch.randn(1, 3, 5, 7)
    actual = NonUniformUpsample()(features, MappingStack(), (10, 9))
    expected = F.interpolate(features, (10, 9), mode="bilinear", align_corners=False)
    assert torch.equal(actual, expected)
    assert torch.equal(NonUniformUpsample()(features, MappingStack(), (5, 7)), features)


def test_identity_mappings_resize_too():
    """Half-pixel phase and no displacement: what F.interpolate does."""
    stack = MappingStack([Mapping(torch.zeros(2, 2, 8, 10), False, 2, 0.5, (4, 5))])
    features = torch.randn(2, 3, 4, 5)
    expected = F.interpolate(features, (16, 20), mode="bilinear", align_corners=False)
    actual = NonUniformUpsample()(features, stack, (16, 20))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("solver", "interp"), PAIRS)
def test_gradients_reach_values_only(solver, interp):
    """Invariant 14: none to the mapping with grad="values", some with grad="implicit"."""
    displacement = displacement_of("noise", (8, 10)).requires_grad_()
    features = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    stack = MappingStack([Mapping(displacement, False, 2, 0.5, (4, 5))])
    options = {"solver": solver, "interp": interp}
    output = NonUniformUpsample(**options)(features, stack, (8, 10))
    values, none = torch.autograd.grad(
        output.square().sum(), (features, displacement), allow_unused=True
    )
    assert values.abs().max() > 0
    assert none is None
    output = NonUniformUpsample(**options, grad="implicit")(features, stack, (8, 10))
    (some,) = torch.autograd.grad(output.square().sum(), displacement)
    assert some.isfinite().all()
    assert some.abs().max() > 0


def test_implicit_gradients_through_two_stages():
    """Against finite differences in the displacements of both stages."""
    module = NonUniformUpsample(grad="implicit")
    features = torch.randn(
        1, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    first = displacement_of("noise", (6, 8)).requires_grad_()
    second = displacement_of("smooth", (3, 4)).requires_grad_()

    def run(first, second):
        stack = MappingStack(
            [Mapping(first, False, 2, 0.5, (3, 4)), Mapping(second, False, 2, 0.5, (2, 3))]
        )
        # Inner pixels: at the border the mapping is not smooth.
        return module(features, stack, (5, 7))[..., 1:-1, 2:-2]

    assert torch.autograd.gradcheck(
        run, (first, second), eps=1e-7, atol=1e-5, rtol=1e-3, fast_mode=True
    )
