import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from freqfusion.layers import sample_at_offsets
from freqfusion.layers.sampling import gather_at, sample_at
from freqfusion.layers.sfm import interpolate_at

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


@pytest.mark.detectron2
def test_no_number_ends_the_process():
    """NaN, infinities and 1e30 in every input and weight, in three types, both ways."""
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
    """At that pixel and at no other; its gradients do not reach the points."""
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


@pytest.mark.parametrize("far", [1e30, -1e30, 3e38, -3e38])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [1, 2, 300])
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


@pytest.mark.parametrize("nowhere", NOWHERE)
def test_an_offset_that_is_not_finite_makes_its_group_nan_there(nowhere):
    features, offsets = torch.randn(2, 8, 4, 5), torch.zeros(2, 2, 4, 8, 10)
    offsets[1, 1, 2, 3, 4] = nowhere
    sampled = sample_at_offsets(features, offsets)
    assert sampled[1, 4:6, 3, 4].isnan().all()
    assert sampled.isnan().sum() == 2


@pytest.mark.parametrize("interp", ["bilinear", "barycentric"])
@pytest.mark.parametrize("nowhere", NOWHERE)
def test_interpolation_of_a_place_that_does_not_exist_is_nan(interp, nowhere):
    points = torch.zeros(1, 2, 3, 2)
    points[0, 1, 2, 0] = nowhere
    read = interpolate_at(torch.ones(1, 3, 4, 5), points, interp=interp)
    assert read[..., 1, 2].isnan().all()
    assert read.isnan().sum() == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_in_float32(dtype):
    """A ramp of 512 columns: half precision could not tell its last pixels apart."""
    maps = torch.linspace(0, 1, 512).to(dtype).expand(1, 1, 1, 512)
    points = torch.zeros(1, 1, 50, 2)
    points[..., 0] = torch.linspace(0.9, 0.99, 50)
    samples = sample_at(maps, points)
    assert samples.dtype == torch.float32
    assert torch.equal(samples, sample_at(maps.float(), points))
