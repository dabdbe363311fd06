import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded_points import RecordedPoints

from freqfusion.modeling.mask2former.mask_losses import (
    choose_uncertain_points,
    sample_points,
    uniform_points,
)


def by_loops(maps, points):
    """Bilinear sampling, one number after the other."""
    maps = maps.double()
    result = torch.zeros(len(maps), maps.shape[1], points.shape[1], dtype=torch.float64)
    height, width = maps.shape[-2:]
    for n in range(len(maps)):
        for p, (x, y) in enumerate(points[n].double().tolist()):
            x, y = x * width - 0.5, y * height - 0.5
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x), math.floor(x) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        weight = (1 - abs(x - column)) * (1 - abs(y - row))
                        result[n, :, p] += weight * maps[n, :, row, column]
    return result


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.bool]),
    st.integers(0, 2**20),
)
def test_is_the_loop(height, width, dtype, seed):
    torch.manual_seed(seed)
    maps = (3 * torch.randn(2, 3, height, width)).clamp(min=0).to(dtype)
    points = torch.rand(2, 5, 2) * 1.4 - 0.2  # some of them outside
    points[0, 0], points[1, 0] = 0, 1
    actual = sample_points(maps, points)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(actual.double(), by_loops(maps, points), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize("shape", [(0, 1, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)])
def test_nothing_to_sample(shape, dtype):
    maps = torch.zeros(shape, dtype=dtype)
    sampled = sample_points(maps, torch.rand(shape[0], 7, 2))
    assert sampled.shape == (*shape[:2], 7)
    assert not sampled.any()


def test_gradient():
    maps = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    points = torch.rand(2, 5, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: sample_points(m, points), maps)


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_read_at_exact_places(autocast):
    """A ramp of 512 columns: in bfloat16 a place among them would be off by pixels."""
    maps = torch.arange(512.0).expand(1, 1, 2, 512).bfloat16()
    points = torch.rand(1, 50, 2) * 0.9 + 0.05
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        sampled = sample_points(maps, points)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled.double(), by_loops(maps, points), atol=1e-2, rtol=0)


def test_uncertain_points_by_hand():
    """Of the columns -3, 1, 0.5, -0.2 the last two are the most uncertain, then comes the rest."""
    logits = torch.tensor([[[-3.0, 1.0, 0.5, -0.2]]])
    centres = torch.tensor([[[0.125, 0.5], [0.375, 0.5], [0.625, 0.5], [0.875, 0.5]]])
    rest = torch.tensor([[[0.1, 0.2]]])
    source = RecordedPoints([centres, rest])
    points = choose_uncertain_points(
        logits,
        num_points=3,
        oversample_ratio=1.5,
        importance_sample_ratio=0.7,
        draw_points=source,
    )
    assert torch.equal(points, torch.cat((centres[:, [3, 2]], rest), dim=1))
    assert not source.left


@pytest.mark.parametrize(("part", "calls"), [(1.0, 1), (0.5, 2), (0.0, 2)])
@pytest.mark.parametrize("masks", [0, 3])
def test_number_of_points(part, calls, masks):
    asked = []

    def draw(sets, points, device):
        asked.append((sets, points))
        return uniform_points(sets, points, device)

    points = choose_uncertain_points(
        torch.randn(masks, 4, 5),
        num_points=8,
        oversample_ratio=2.5,
        importance_sample_ratio=part,
        draw_points=draw,
    )
    assert points.shape == (masks, 8, 2)
    assert asked == [(masks, 20), (masks, 8 - int(8 * part))][:calls]


def test_errors():
    with pytest.raises(ValueError, match=r"points \(N, P, 2\); got \(2, 4, 5\) and \(2, 3, 2\)"):
        sample_points(torch.zeros(2, 4, 5), torch.zeros(2, 3, 2))
    with pytest.raises(ValueError, match=r"got \(2, 1, 4, 5\) and \(1, 3, 2\)"):
        sample_points(torch.zeros(2, 1, 4, 5), torch.zeros(1, 3, 2))
