"""Back from a modulated space: round trips, composed stages, the cascade of relations, one hop."""

import pytest
import torch
import torch.nn.functional as F
from sfm_displacements import KINDS, boundary_displacement, displacement_of, stack_of
from sfm_signals import band_limited

from freqfusion.layers.sampling import (
    interpolate_at,
    lattice_points_of,
    resize_bilinear,
    triangle_corners,
)
from freqfusion.layers.sfm.displacement import modulate
from freqfusion.layers.sfm.mapping import Mapping, MappingStack
from freqfusion.layers.sfm.upsampling import (
    MultiScaleAdaptiveUpsampling,
    NonUniformUpsample,
    ThreePointReassembly,
)

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


# With a cascade of relations


def cascade(size=(16, 24), *, stages=2, batch=2, classes=5, **options):
    """A module, and logits and a guide two halvings below the first lattice."""
    torch.manual_seed(0)
    module = MultiScaleAdaptiveUpsampling(guide_channels=6, **options)
    stack = stack_of(size, stages=stages, batch=batch)
    low = stack[-1].out_size if stack else size
    return module, torch.randn(batch, classes, *low), torch.randn(batch, 6, *low), stack


def test_cascade_is_its_steps():
    """Demodulate both at 1/4, predict the relation, three modules, resize to the image."""
    module, logits, guide, stack = cascade(dilations=(1, 2, 4))
    output = module(logits, guide, stack, (64, 96))
    upsample = NonUniformUpsample()
    expected, relation = (upsample(tensor, stack, (16, 24)) for tensor in (logits, guide))
    relation = module.guide_conv(F.pad(relation, (1,) * 4, mode="replicate"))
    relation = module.guide_norm(relation).relu()
    for part, dilation in zip(module.relations, (1, 2, 4), strict=True):
        assert part.geometry.dilation == dilation
        relation, expected = part(relation, expected)
    expected = F.interpolate(expected, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("guide_density", [False, True])
@pytest.mark.parametrize("stages", [0, 2])
@pytest.mark.parametrize("image", [(61, 93), (7, 5)])
def test_cascade_at_any_size(image, stages, guide_density):
    """Also without stages; constants stay, and the guide may have a size of its own."""
    module, logits, guide, stack = cascade(
        stages=stages, guide_density=guide_density, dilations=(1, 16)
    )
    guide = F.interpolate(guide, scale_factor=2, mode="bilinear", align_corners=False)
    output = module(torch.ones_like(logits), guide, stack, image)
    assert output.shape == (2, 5, *image)
    torch.testing.assert_close(output, torch.ones_like(output), atol=1e-5, rtol=0)


def test_density_is_a_channel():
    """The log of the product of the stages' densities: zero without displacement, else not."""
    module, logits, guide, stack = cascade(guide_density=True, dilations=(1,))
    seen = []
    module.guide_conv.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    module(logits, guide, stack, (64, 96))
    still = MappingStack(
        Mapping(torch.zeros_like(stage.displacement), False, 2, 0.5, stage.out_size)
        for stage in stack
    )
    module(logits, guide, still, (64, 96))
    module(logits, guide, MappingStack(), (64, 96))
    moved, unmoved, none = (tensor[:, 6, 1:-1, 1:-1] for tensor in seen)
    assert moved.shape == (2, 16, 24)
    assert moved.abs().max() > 0.1
    assert unmoved.abs().max() <= 1e-5
    assert none.abs().max() == 0


def test_gradients_reach_logits_guide_and_parameters_but_not_the_mapping():
    """Invariant 14: the mapping is a constant of the values' gradient, its density too."""
    module, logits, guide, _ = cascade(guide_density=True)
    displacement = displacement_of("noise", (8, 12), dtype=torch.float32, batch=2).requires_grad_()
    stack = MappingStack([Mapping(displacement, False, 2, 0.5, (4, 6))])
    logits.requires_grad_()
    guide.requires_grad_()
    module(logits, guide, stack, (32, 48)).square().sum().backward()
    for tensor in (logits, guide, *module.parameters()):
        assert tensor.grad.abs().max() > 0
    assert displacement.grad is None


def test_without_a_cascade_features_are_only_demodulated():
    """On a lattice of the image over four, then resized; the guide has nothing to learn from."""
    module, logits, guide, stack = cascade(dilations=())
    assert not list(module.parameters())
    expected = resize_bilinear(NonUniformUpsample()(logits, stack, (16, 24)), (64, 96))
    torch.testing.assert_close(module(logits, guide, stack, (64, 96)), expected)
    torch.testing.assert_close(module(logits, -guide, stack, (64, 96)), expected)


# One hop of a pyramid


def hop(size=(16, 20), *, kind="noise", batch=2, phase=0.5, dtype=torch.float32, **options):
    torch.manual_seed(0)
    module = ThreePointReassembly(**{"channels": 4, **options}).to(dtype)
    low = (max(size[0] // 2, 1), max(size[1] // 2, 1))
    displacement = displacement_of(kind, size, dtype=dtype, batch=batch)
    mapping = Mapping(displacement, False, 2, phase, low)
    lateral = torch.randn(batch, module.channels, *size, dtype=dtype)
    return module, lateral, torch.randn(batch, module.channels, *low, dtype=dtype), mapping


def places(mapping, size):
    points = lattice_points_of(mapping.displacement, size)
    return mapping.to_downsampled(mapping.inverse_points(points))


@pytest.mark.parametrize("phase", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"groups": 2, "offsets": True}])
def test_start_is_demodulation_from_three_points(kind, phase, options):
    """Invariant 20, within 1e-3: the lateral map plus barycentric reading, without kernels."""
    module, lateral, coarse, mapping = hop(kind=kind, phase=phase, kernel=1, **options)
    expected = interpolate_at(coarse, places(mapping, (16, 20)), interp="barycentric")
    output = module(lateral, coarse, mapping)
    torch.testing.assert_close(output - lateral, expected, atol=1e-3, rtol=0)


def test_kernels_start_at_the_centre():
    """Nine tenths of the aligned map: the rest is a mean of 24 neighbours."""
    module, lateral, coarse, mapping = hop()
    aligned = module.align(lateral, coarse, mapping)
    added = module(lateral, coarse, mapping) - lateral
    assert 0 < (added - aligned).abs().max() <= 0.11 * 2 * aligned.abs().max()
    constant = torch.full_like(coarse, 3.0)
    added = module(lateral, constant, mapping) - lateral
    torch.testing.assert_close(added, torch.full_like(added, 3.0), atol=1e-5, rtol=0)


def test_weights_by_hand():
    """A correction of (0, ln 2, 0) for the second group: its second weight counts double."""
    module, lateral, coarse, mapping = hop(kernel=1, groups=2, dtype=torch.float64)
    with torch.no_grad():
        module.weight.bias[4] = torch.log(torch.tensor(2.0))
    corners = triangle_corners(places(mapping, (16, 20)), (8, 10))
    values, weights = corners.read(coarse), corners.weights
    doubled = weights * torch.tensor([1.0, 2.0, 1.0]).view(3, 1, 1)
    doubled = doubled / doubled.sum(1, keepdim=True)
    output = module(lateral, coarse, mapping) - lateral
    for group, weight in enumerate((weights, doubled)):
        part = slice(2 * group, 2 * group + 2)
        expected = (values[:, part] * weight[:, None]).sum(2)
        torch.testing.assert_close(output[:, part], expected, atol=1e-4, rtol=0)


def test_offsets_move_the_points():
    """A bias of 2 in x moves all three points by half a coarse pixel: a ramp in x grows by 0.5.

    Only of the first group, and where no point is beyond the border. The third point of the second
    group alone, by one pixel in y, adds its weight to a ramp in y.
    """
    module, lateral, coarse, mapping = hop(kernel=1, groups=2, offsets=True)
    across, down = torch.arange(10.0), torch.arange(8.0)[:, None]
    coarse = torch.stack([across + 0 * down] * 2 + [down + 0 * across] * 2).expand(2, -1, -1, -1)
    before = module(lateral, coarse, mapping)
    with torch.no_grad():
        bias = module.offset.bias.view(2, 3, 2)
        bias[0, :, 0], bias[1, 2, 1] = 2, 4
    moved = (module(lateral, coarse, mapping) - before)[..., 4:-4, 4:-4]
    torch.testing.assert_close(moved[:, :2], torch.full_like(moved[:, :2], 0.5), atol=1e-4, rtol=0)
    weight = triangle_corners(places(mapping, (16, 20)), (8, 10)).weights[:, 2]
    expected = weight[:, None, 4:-4, 4:-4].expand(-1, 2, -1, -1)
    torch.testing.assert_close(moved[:, 2:], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{}, {"groups": 2, "offsets": True}])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_hop_at_any_size(size, options):
    module, lateral, coarse, mapping = hop(size, **options)
    output = module(lateral, coarse, mapping)
    assert output.shape == lateral.shape
    assert output.isfinite().all()
