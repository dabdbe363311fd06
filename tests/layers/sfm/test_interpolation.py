"""Reading at points: numbers, the pairing with the solvers, dtypes, gradients, clear errors."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sfm_displacements import KINDS, displacement_of

from freqfusion.layers.sampling import (
    interpolate_at,
    lattice_pixels,
    lattice_points,
    to_normalized,
    to_pixels,
    triangle_corners,
)
from freqfusion.layers.sfm.inversion import invert_displacement

PAIRS = [("newton", "bilinear"), ("search", "barycentric")]
INTERPS = ("bilinear", "barycentric")


def at(pixels, size, align_corners=False):
    points = to_normalized(torch.tensor(pixels, dtype=torch.float64), size, align_corners)
    return points.view(1, 1, -1, 2)


def test_by_hand():
    """Nodes 1, 2; 4, 9. At (0.25, 0.5) the bilinear rows are 1.25 and 5.25: 3.25.

    The first triangle has 1 * 0.25 + 2 * 0.25 + 4 * 0.5 = 2.75. At (0.75, 0.5), in the second one,
    9 * 0.25 + 4 * 0.25 + 2 * 0.5 = 4.25; bilinear 1.75 and 7.75: 4.75. (-1, 2) is the node 4.
    """
    features = torch.tensor([[1.0, 2.0], [4.0, 9.0]], dtype=torch.float64).view(1, 1, 2, 2)
    for align_corners in (False, True):
        points = at([[0.25, 0.5], [0.75, 0.5], [-1.0, 2.0]], (2, 2), align_corners)
        for interp, expected in (("bilinear", [3.25, 4.75, 4]), ("barycentric", [2.75, 4.25, 4])):
            actual = interpolate_at(features, points, interp=interp, align_corners=align_corners)
            torch.testing.assert_close(actual.flatten(), torch.tensor(expected).double())


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    interp=st.sampled_from(INTERPS),
    align_corners=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_affine_maps_are_read_exactly(height, width, interp, align_corners, seed):
    """3 x - 2 y + 5 of the pixel, at places within the outermost pixel centres."""
    generator = torch.Generator().manual_seed(seed)
    pixels = lattice_pixels((height, width), dtype=torch.float64)
    features = (pixels @ torch.tensor([3.0, -2.0], dtype=torch.float64) + 5)[None, None]
    places = torch.rand(1, 4, 7, 2, dtype=torch.float64, generator=generator)
    places = places * torch.tensor([width - 1, height - 1])
    points = to_normalized(places, (height, width), align_corners)
    actual = interpolate_at(features, points, interp=interp, align_corners=align_corners)
    expected = places @ torch.tensor([3.0, -2.0], dtype=torch.float64) + 5
    torch.testing.assert_close(actual[:, 0], expected)


@pytest.mark.parametrize("interp", INTERPS)
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (4, 3)])
def test_nodes_are_read_exactly(interp, size):
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    points = lattice_points(size, dtype=torch.float64).expand(2, -1, -1, -1)
    torch.testing.assert_close(interpolate_at(features, points, interp=interp), features)


@pytest.mark.parametrize("interp", INTERPS)
def test_constant_beyond_the_border(interp):
    features = torch.randn(1, 2, 4, 5, dtype=torch.float64)
    inside = at([[0.0, 1.3], [4.0, 3.0], [2.2, 0.0]], (4, 5))
    outside = at([[-3.0, 1.3], [5.0, 3.6], [2.2, -9.0]], (4, 5))
    actual, expected = (interpolate_at(features, p, interp=interp) for p in (outside, inside))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("solver", "interp"), PAIRS)
@pytest.mark.parametrize("out_size", [(24, 30), (47, 31)])
def test_affine_in_the_original_position(kind, solver, interp, out_size):
    """Invariant 8: data affine in the position of their nodes come back exactly, to 1e-9.

    Every node holds 0.7 x - 1.3 y + 2 of the place it was taken from.
    """
    size = (24, 30)
    displacement = displacement_of(kind, size)
    slope = torch.tensor([0.7, -1.3], dtype=torch.float64)
    nodes = lattice_pixels(size, dtype=torch.float64) + displacement[0].permute(1, 2, 0)
    features = (nodes @ slope + 2)[None, None]
    points, _ = invert_displacement(displacement, out_size=out_size, solver=solver)
    actual = interpolate_at(features, points, interp=interp)[0, 0]
    goals = to_pixels(lattice_points(out_size, dtype=torch.float64), size)
    inner = torch.stack([goals[..., 0].clamp(0, 29), goals[..., 1].clamp(0, 23)], dim=-1)
    assert (actual - (inner @ slope + 2)).abs().max() <= 1e-9


def test_a_mixture_is_off():
    """What invariant 8 guards against: the inverse of one interpolant read with the other."""
    displacement = displacement_of("smooth", (24, 30))
    nodes = lattice_pixels((24, 30), dtype=torch.float64) + displacement[0].permute(1, 2, 0)
    features = nodes[..., :1].permute(2, 0, 1)[None]
    points, _ = invert_displacement(displacement, solver="newton")
    mixed = interpolate_at(features, points, interp="barycentric")[0, 0]
    assert (mixed - torch.arange(30)).abs().max() >= 0.05


@pytest.mark.parametrize("interp", INTERPS)
def test_gradients(interp):
    features = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    places = 0.2 + 2.5 * torch.rand(2, 3, 2, 2, dtype=torch.float64)
    points = to_normalized(places, (4, 5)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *inputs: interpolate_at(*inputs, interp=interp), (features, points), eps=1e-7
    )


@pytest.mark.parametrize("interp", INTERPS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_features(interp, dtype, bound):
    """Invariant 17 for reading: dtype of the features, positions in float32."""
    features = torch.randn(1, 4, 32, 200).to(dtype)
    displacement = displacement_of("noise", (32, 200), dtype=torch.float32)
    points, _ = invert_displacement(displacement)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = interpolate_at(features, points, interp=interp)
    assert actual.dtype == dtype
    expected = interpolate_at(features.float(), points, interp=interp)
    # The bounds are for values of about one; rounding of the result is relative.
    assert ((actual - expected).abs() / expected.abs().clamp(min=1)).max() <= bound


def test_corners_are_bounded_and_weights_sum_to_one():
    points = 4 * torch.rand(2, 5, 6, 2, dtype=torch.float64) - 2
    corners = triangle_corners(points, (3, 4))
    assert corners.weights.shape == corners.node.shape == (2, 3, 5, 6)
    torch.testing.assert_close(corners.weights.sum(1), torch.ones(2, 5, 6, dtype=torch.float64))
    assert corners.weights.min() >= -1e-12
    assert torch.equal(corners.node, corners.y * 4 + corners.x)
    assert corners.x.min() >= 0
    assert corners.x.max() <= 3
    assert corners.y.min() >= 0
    assert corners.y.max() <= 2


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 5)])
def test_coordinates_are_those_of_torch(size, align_corners):
    """Against affine_grid's identity, and there and back; an axis of one pixel has no extent."""
    points = lattice_points(size, align_corners, dtype=torch.float64)
    if not align_corners or min(size) > 1:
        theta = torch.eye(2, 3, dtype=torch.float64)[None]
        grid = F.affine_grid(theta, (1, 1, *size), align_corners=align_corners)[0]
        torch.testing.assert_close(points, grid)
    pixels = to_pixels(points, size, align_corners)
    torch.testing.assert_close(pixels, lattice_pixels(size, dtype=torch.float64))
