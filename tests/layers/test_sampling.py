"""Reading maps at places, and the coordinates of their pixels."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sfm_displacements import KINDS, displacement_of

from freqfusion.layers.sampling import (
    gather_at,
    interpolate_at,
    lattice_pixels,
    lattice_points,
    sample_at,
    to_normalized,
    to_pixels,
    triangle_corners,
)
from freqfusion.layers.sfm import invert_displacement

NOWHERE = [math.nan, math.inf, -math.inf]
OPTIONS = [
    {"mode": mode, "padding_mode": padding, "align_corners": corners}
    for mode in ("bilinear", "bicubic")
    for padding in ("zeros", "border")
    for corners in (False, True)
]


def maps_and_points(height=5, width=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, height, width, dtype=dtype, generator=generator)
    points = 3 * torch.rand(2, 6, 7, 2, dtype=dtype, generator=generator) - 1.5
    return maps.requires_grad_(), points.requires_grad_()


def test_no_number_ends_the_process():
    """NaN, infinities and 1e30 in every input, NaN in every weight, both ways."""
    program = Path(__file__).parents[1] / "nonfinite_sampling.py"
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", program], capture_output=True, text=True, check=False
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, (len(lines), lines[-1:], ended.stderr[-2000:])
    assert lines[-1] == "done"


@pytest.mark.parametrize("options", OPTIONS)
def test_is_grid_sample(options):
    maps, points = maps_and_points()
    weight = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    ours, theirs = sample_at(maps, points, **options), F.grid_sample(maps, points, **options)
    assert torch.equal(ours, theirs)
    for actual, expected in zip(
        torch.autograd.grad(ours, (maps, points), weight),
        torch.autograd.grad(theirs, (maps, points), weight),
        strict=True,
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("nowhere", NOWHERE)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_place_that_does_not_exist_is_nan(options, nowhere):
    """In one sample only, and its gradients are finite."""
    maps, points = maps_and_points()
    expected = sample_at(maps, points, **options)
    broken = points.detach().clone()
    broken[1, 2, 3, 0] = nowhere
    samples = sample_at(maps, broken.requires_grad_(), **options)
    assert samples[1, :, 2, 3].isnan().all()
    assert samples.isnan().sum() == samples.shape[1]
    others = ~samples.isnan()
    assert torch.equal(samples[others], expected[others])
    for gradient in torch.autograd.grad(samples.sum(), (maps, broken)):
        assert gradient.isfinite().all()
    triangles = interpolate_at(maps, broken, interp="barycentric")
    assert torch.equal(triangles.isnan(), samples.isnan())


@pytest.mark.parametrize("far", [1e30, -3e38])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [1, 300])
def test_far_away_is_outside(options, far, size):
    maps, points = maps_and_points(size, size, torch.float32)
    points = points.detach().fill_(far)
    outside = sample_at(maps, points.clamp(-50, 50), **options)
    torch.testing.assert_close(sample_at(maps, points, **options), outside)
    if options["padding_mode"] == "border":
        edge = maps[..., -1:, -1:] if far > 0 else maps[..., :1, :1]
        torch.testing.assert_close(outside, edge.expand_as(outside))


@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.uint8, torch.bool]),
)
def test_gathering_is_the_same(height, width, dtype):
    maps, points = maps_and_points(height, width, torch.float32)
    points = points.detach().clone()
    points[0, 0, :5, 0] = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -3e38])
    maps = maps.detach().mul(3).clamp(min=0).to(dtype)
    expected = sample_at(maps.to(torch.promote_types(dtype, torch.float32)), points)
    torch.testing.assert_close(gather_at(maps, points), expected, equal_nan=True)


def test_gathering_has_derivatives_of_first_and_second_order():
    maps, points = maps_and_points()
    inputs = maps[:1], points[:1, :2, :2]
    assert torch.autograd.gradcheck(gather_at, inputs)
    assert torch.autograd.gradgradcheck(gather_at, inputs, fast_mode=True)


# Reading with the interpolant of an inverted mapping


def test_interpolation_by_hand():
    """Nodes 1, 2; 4, 9. At (0.25, 0.5) the bilinear rows are 1.25 and 5.25: 3.25.

    The first triangle has 1 * 0.25 + 2 * 0.25 + 4 * 0.5 = 2.75. At (0.75, 0.5), in the second one,
    9 * 0.25 + 4 * 0.25 + 2 * 0.5 = 4.25; bilinear 1.75 and 7.75: 4.75. (-1, 2) is the node 4.
    """
    features = torch.tensor([[1.0, 2.0], [4.0, 9.0]], dtype=torch.float64).view(1, 1, 2, 2)
    pixels = torch.tensor([[0.25, 0.5], [0.75, 0.5], [-1.0, 2.0]], dtype=torch.float64)
    for align_corners in (False, True):
        points = to_normalized(pixels, (2, 2), align_corners).view(1, 1, 3, 2)
        for interp, expected in (("bilinear", [3.25, 4.75, 4]), ("barycentric", [2.75, 4.25, 4])):
            actual = interpolate_at(features, points, interp=interp, align_corners=align_corners)
            torch.testing.assert_close(actual.flatten(), torch.tensor(expected).double())


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    interp=st.sampled_from(["bilinear", "barycentric"]),
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("solver", "interp"), [("newton", "bilinear"), ("search", "barycentric")])
def test_affine_in_the_original_position(kind, solver, interp):
    """Invariant 8: data affine in the position of their nodes come back exactly, to 1e-9.

    Every node holds 0.7 x - 1.3 y + 2 of the place it was taken from.
    """
    size, out_size = (24, 30), (47, 31)
    displacement = displacement_of(kind, size)
    slope = torch.tensor([0.7, -1.3], dtype=torch.float64)
    nodes = lattice_pixels(size, dtype=torch.float64) + displacement[0].permute(1, 2, 0)
    features = (nodes @ slope + 2)[None, None]
    points, _ = invert_displacement(displacement, out_size=out_size, solver=solver)
    actual = interpolate_at(features, points, interp=interp)[0, 0]
    goals = to_pixels(lattice_points(out_size, dtype=torch.float64), size)
    inner = torch.stack([goals[..., 0].clamp(0, 29), goals[..., 1].clamp(0, 23)], dim=-1)
    assert (actual - (inner @ slope + 2)).abs().max() <= 1e-9


def test_corners_are_bounded_and_weights_sum_to_one():
    points = 4 * torch.rand(2, 5, 6, 2, dtype=torch.float64) - 2
    corners = triangle_corners(points, (3, 4))
    torch.testing.assert_close(corners.weights.sum(1), torch.ones(2, 5, 6, dtype=torch.float64))
    assert corners.weights.min() >= -1e-12
    assert torch.equal(corners.node, corners.y * 4 + corners.x)
    for axis, last in ((corners.x, 3), (corners.y, 2)):
        assert axis.min() >= 0
        assert axis.max() <= last


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
