"""Three-point reassembly: its start, groups, offsets, any size, gradients, dtypes, clear errors."""

import pytest
import torch
from sfm_displacements import KINDS, displacement_of

from freqfusion.layers.sampling import (
    interpolate_at,
    lattice_points,
    to_normalized,
    triangle_corners,
)
from freqfusion.layers.sfm.mapping import Mapping
from freqfusion.layers.sfm.upsampling import ThreePointReassembly


def example(size=(16, 20), *, kind="noise", batch=2, phase=0.5, dtype=torch.float32, **options):
    torch.manual_seed(0)
    module = ThreePointReassembly(**{"channels": 4, **options}).to(dtype)
    low = (max(size[0] // 2, 1), max(size[1] // 2, 1))
    displacement = displacement_of(kind, size, dtype=dtype, batch=batch)
    mapping = Mapping(displacement, False, 2, phase, low)
    lateral = torch.randn(batch, module.channels, *size, dtype=dtype)
    return module, lateral, torch.randn(batch, module.channels, *low, dtype=dtype), mapping


def places(mapping, size):
    points = lattice_points(size, dtype=mapping.displacement.dtype)
    points = points.expand(len(mapping.displacement), -1, -1, -1)
    return mapping.to_downsampled(mapping.inverse_points(points))


@pytest.mark.parametrize("phase", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"offsets": True}])
def test_start_is_demodulation_from_three_points(kind, phase, options):
    """Invariant 20, within 1e-3: the lateral map plus barycentric reading, without kernels."""
    module, lateral, coarse, mapping = example(kind=kind, phase=phase, kernel=1, **options)
    expected = interpolate_at(coarse, places(mapping, (16, 20)), interp="barycentric")
    output = module(lateral, coarse, mapping)
    torch.testing.assert_close(output - lateral, expected, atol=1e-3, rtol=0)


def test_kernels_start_at_the_centre():
    """Nine tenths of the aligned map: the rest is a mean of 24 neighbours."""
    module, lateral, coarse, mapping = example()
    aligned = module.align(lateral, coarse, mapping)
    added = module(lateral, coarse, mapping) - lateral
    assert 0 < (added - aligned).abs().max() <= 0.11 * 2 * aligned.abs().max()
    constant = torch.full_like(coarse, 3.0)
    added = module(lateral, constant, mapping) - lateral
    torch.testing.assert_close(added, torch.full_like(added, 3.0), atol=1e-5, rtol=0)


def test_weights_by_hand():
    """A correction of (0, ln 2, 0) for the second group: its second weight counts double."""
    module, lateral, coarse, mapping = example(kernel=1, groups=2, dtype=torch.float64)
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

    Only of the first group, and where no point is beyond the border.
    """
    module, lateral, coarse, mapping = example(kernel=1, groups=2, offsets=True)
    coarse = torch.arange(10.0).expand(2, 4, 8, 10)
    before = module(lateral, coarse, mapping)
    with torch.no_grad():
        module.offset.bias.view(2, 3, 2)[0, :, 0] = 2
    moved = (module(lateral, coarse, mapping) - before)[..., 4:-4]
    torch.testing.assert_close(moved[:, :2], torch.full_like(moved[:, :2], 0.5), atol=1e-4, rtol=0)
    assert moved[:, 2:].abs().max() <= 1e-5


def test_offsets_in_y_and_of_one_point():
    """The third point alone, by one pixel in y: a ramp in y grows by the weight of that point."""
    module, lateral, coarse, mapping = example(kernel=1, offsets=True)
    coarse = torch.arange(8.0)[:, None].expand(2, 4, 8, 10)
    before = module(lateral, coarse, mapping)
    with torch.no_grad():
        module.offset.bias.view(3, 2)[2, 1] = 4
    moved = module(lateral, coarse, mapping) - before
    weight = triangle_corners(places(mapping, (16, 20)), (8, 10)).weights[:, 2]
    inner = slice(4, -4)
    expected = weight[:, None].expand_as(moved)[:, :, inner]
    torch.testing.assert_close(moved[:, :, inner], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("options", [{}, {"groups": 2, "offsets": True}, {"kernel": 3}])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 3), (7, 5), (33, 18)])
def test_any_size(size, options):
    module, lateral, coarse, mapping = example(size, **options)
    output = module(lateral, coarse, mapping)
    assert output.shape == lateral.shape
    assert output.isfinite().all()


def test_gradients():
    module, lateral, coarse, mapping = example((5, 4), batch=1, dtype=torch.float64, offsets=True)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    lateral.requires_grad_()
    coarse.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *maps: module(*maps, mapping), (lateral, coarse), fast_mode=True
    )


def test_nodes_are_moved_from_their_pixel():
    """Points at the nodes themselves, without displacement: values are read as they are."""
    module, lateral, coarse, mapping = example(kernel=1, offsets=True, kind="noise")
    still = Mapping(torch.zeros_like(mapping.displacement), False, 2, 0.0, mapping.out_size)
    output = module(lateral, coarse, still) - lateral
    torch.testing.assert_close(output[..., ::2, ::2], coarse, atol=1e-4, rtol=0)
    assert to_normalized(torch.zeros(2), (8, 10)).tolist() == pytest.approx([-0.9, -0.875])
