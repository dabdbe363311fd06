"""Coordinates through one stage and through several."""

from itertools import pairwise

import pytest
import torch

from freqfusion.layers.sampling import lattice_points, to_normalized, to_pixels
from freqfusion.layers.sfm.displacement import modulate, saliency_to_displacement, spatial_softmax
from freqfusion.layers.sfm.mapping import Mapping, MappingStack

CORNERS = pytest.mark.parametrize("align_corners", [False, True])


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def displacement_of(batch, height, width, seed=0):
    """From random logits within [-2, 2]."""
    logits = 4 * random(batch, 1, height, width, seed=seed) - 2
    return saliency_to_displacement(spatial_softmax(logits))


def one_stage(displacement, align_corners=False, stride=2, phase=0.5, out_size=None):
    if out_size is None:
        height, width = displacement.shape[-2:]
        out_size = max(height // stride, 1), max(width // stride, 1)
    return Mapping(displacement, align_corners, stride, phase, out_size)


def points_at(pixels, size, align_corners):
    """Pixels (x, y) as one row of normalised points (1, 1, n, 2)."""
    places = torch.tensor(pixels, dtype=torch.float64).view(1, 1, -1, 2)
    return to_normalized(places, size, align_corners)


# One stage


@CORNERS
def test_forward_points_by_hand(align_corners):
    """x moves by 0, 1, 3 pixels at x = 0, 1, 2; y by 0.5 in the lower of two rows.

    Between nodes the displacement is bilinear, beyond them that of the border.
    """
    size = (2, 3)
    displacement = torch.zeros(1, 2, *size, dtype=torch.float64)
    displacement[0, 0] = torch.tensor([0.0, 1, 3])
    displacement[0, 1, 1] = 0.5
    stage = one_stage(displacement, align_corners)
    places = [(1, 0), (1.5, 0), (1, 0.5), (2.25, 1), (-0.5, -0.25)]
    expected = [(2, 0), (3.5, 0), (2, 0.75), (5.25, 1.5), (-0.5, -0.25)]
    found = stage.forward_points(points_at(places, size, align_corners))
    torch.testing.assert_close(found, points_at(expected, size, align_corners))


@CORNERS
@pytest.mark.parametrize("size", [(9, 12), (1, 5)], ids=str)
def test_nodes_are_where_modulation_reads(size, align_corners):
    """Coordinates as an image: reading them is the same as moving points."""
    displacement = displacement_of(2, *size)
    stage = one_stage(displacement, align_corners)
    nodes = lattice_points(size, align_corners, dtype=torch.float64).expand(2, -1, -1, -1)
    moved = to_pixels(stage.forward_points(nodes), size, align_corners)
    image = to_pixels(nodes, size, align_corners).movedim(-1, 1)
    torch.testing.assert_close(modulate(image, displacement).movedim(1, -1), moved)


@CORNERS
@pytest.mark.parametrize(("phase", "stride"), [(0.0, 2), (0.5, 2), (1.5, 4), (0.0, 1)])
def test_crossing_a_downsampling(phase, stride, align_corners):
    """Pixel j of the downsampled map is pixel stride * j + phase of the lattice."""
    size, small = (13, 17), (4, 6)
    stage = one_stage(torch.zeros(1, 2, *size), align_corners, stride, phase, small)
    fine = [(phase + stride * x, phase + stride * y) for x, y in ((0, 0), (3, 1), (2.5, 0.25))]
    low = points_at([(0, 0), (3, 1), (2.5, 0.25)], small, align_corners)
    high = points_at(fine, size, align_corners)
    torch.testing.assert_close(stage.from_downsampled(low), high)
    torch.testing.assert_close(stage.to_downsampled(high), low)


def test_density_by_hand():
    """x(m) = 0.5 m: two samples per pixel; y(m) = m + 0.25 m: 0.8 of them."""
    displacement = torch.zeros(1, 2, 5, 9, dtype=torch.float64)
    displacement[0, 0] = -0.5 * torch.arange(9)
    displacement[0, 1] = 0.25 * torch.arange(5)[:, None]
    stage = one_stage(displacement)
    points = 1.8 * random(1, 4, 6, 2) - 0.9
    density = stage.density_at(points)
    assert density.shape == (1, 1, 4, 6)
    torch.testing.assert_close(density, torch.full_like(density, 2 * 0.8))


def test_density_counts_samples():
    """Its mean over the original map is one sample per pixel; it peaks on a line."""
    saliency = torch.ones(1, 1, 33, 33, dtype=torch.float64)
    saliency[..., 16] = 30
    stage = one_stage(saliency_to_displacement(saliency))
    density = stage.density((33 * 8, 33 * 8))
    assert density.shape == (1, 1, 264, 264)
    assert density.mean().item() == pytest.approx(1, abs=0.03)
    assert density[..., 132].min() > 5
    assert density[..., 132 - 20].max() < 1
    assert one_stage(torch.zeros(2, 2, 4, 4)).density((3, 5)).sub(1).abs().max() < 1e-6


# Several stages


def three_stages(align_corners, phase):
    odd, even = [(33, 41), (17, 21), (9, 11), (5, 6)], [(32, 40), (16, 20), (8, 10), (4, 5)]
    sizes = odd if phase == 0 else even
    return MappingStack(
        Mapping(displacement_of(2, *size, seed=index), align_corners, 2, phase, small)
        for index, (size, small) in enumerate(pairwise(sizes))
    )


def test_empty_stack_is_the_identity():
    points = random(2, 3, 4, 2)
    assert torch.equal(MappingStack().forward(points), points)
    assert torch.equal(MappingStack().inverse(points), points)
    assert torch.equal(MappingStack().density_at(points), torch.ones(2, 1, 3, 4).double())


@CORNERS
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_stages_are_composed_from_the_last_to_the_first(phase, align_corners):
    stack = three_stages(align_corners, phase)
    first, second, _ = stack
    points = 1.6 * random(2, 4, 5, 2) - 0.8
    expected = second.forward_points(second.from_downsampled(points))
    expected = first.forward_points(first.from_downsampled(expected))
    torch.testing.assert_close(stack.forward(points, upto=2), expected)
    torch.testing.assert_close(stack.forward(points, upto=0), points)
    torch.testing.assert_close(stack.forward(points), stack.forward(points, upto=3))


@CORNERS
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_inverse_of_a_stack(phase, align_corners):
    """Phi(Phi^-1(o)) = o for any number of stages, to a hundredth of a pixel."""
    stack = three_stages(align_corners, phase)
    size = stack[0].size
    points = lattice_points(size, align_corners, dtype=torch.float64).expand(2, -1, -1, -1)
    for upto in (1, 2, 3):
        found = stack.forward(stack.inverse(points, upto), upto)
        error = to_pixels(found, size, align_corners) - to_pixels(points, size, align_corners)
        assert error.abs().max() <= 1e-2


@CORNERS
def test_density_of_a_stack_is_read_where_each_stage_lies(align_corners):
    """The second stage halves x on the right half of its map only."""
    first = one_stage(torch.zeros(1, 2, 4, 16, dtype=torch.float64), align_corners, phase=0.0)
    displacement = torch.zeros(1, 2, 2, 8, dtype=torch.float64)
    displacement[0, 0, :, 4:] = -0.5 * torch.arange(4)
    second = one_stage(displacement, align_corners)
    points = 1.8 * random(1, 4, 9, 2) - 0.9
    expected = second.density_at(first.to_downsampled(first.inverse_points(points)))
    found = MappingStack([first, second]).density_at(points)
    torch.testing.assert_close(found, expected)
    assert found.max() > 1.5 * found.min()
