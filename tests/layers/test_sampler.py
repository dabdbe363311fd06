"""The offset generator's parts, each used alone."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import unfold

from freqfusion.layers import (
    LocalSimilaritySampler,
    hamming_window,
    local_similarity,
    normalize_kernels,
    sample_at_offsets,
)


@settings(max_examples=30)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel_size=st.sampled_from([3, 5]),
    dilation=st.integers(1, 3),
)
def test_similarity_equals_unfold_form(height, width, kernel_size, dilation):
    features = torch.randn(2, 5, height, width, dtype=torch.float64)
    options = {"kernel_size": kernel_size, "dilation": dilation}
    torch.testing.assert_close(
        local_similarity(features, **options), unfold.local_similarity(features, **options)
    )


def test_similarity_by_hand():
    """(1, 0), (1, 1), (0, 0) in a row, one apart: 1 / sqrt 2 between the first two, 0 elsewhere."""
    features = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]).view(1, 2, 1, 3)
    similarity = local_similarity(features, dilation=1)
    assert similarity.shape == (1, 8, 1, 3)
    left, right = similarity[0, 3, 0], similarity[0, 4, 0]
    torch.testing.assert_close(left, torch.tensor([0.0, 0.5**0.5, 0.0]))
    torch.testing.assert_close(right, torch.tensor([0.5**0.5, 0.0, 0.0]))
    assert similarity.abs().sum() == left.abs().sum() + right.abs().sum()


def test_similarity_of_a_pixel_of_zeros_is_zero_and_has_a_gradient():
    features = torch.randn(1, 3, 4, 4)
    features[:, :, 1, 1] = 0
    features.requires_grad_()
    similarity = local_similarity(features, dilation=1)
    assert not similarity[:, :, 1, 1].any()
    similarity.sum().backward()
    assert features.grad.isfinite().all()


def test_similarity_of_large_half_precision_features_does_not_overflow():
    features = torch.full((1, 4, 6, 6), 1e4, dtype=torch.float16)
    similarity = local_similarity(features)
    assert similarity.dtype == torch.float16
    assert similarity.amax() == pytest.approx(1.0, abs=1e-3)
    assert similarity.isfinite().all()


def sampler_of_window(local_window, guide_features="sim_concat"):
    torch.manual_seed(0)
    return LocalSimilaritySampler(
        channels=8, groups=2, local_window=local_window, guide_features=guide_features
    ).double()


@pytest.mark.parametrize("guide_features", ["sim_concat", "sim"])
@pytest.mark.parametrize("local_window", [3, 5, 7])
def test_sampler_of_any_window_equals_unfold_form(local_window, guide_features):
    """In the maps' middle and where most of a window lies beyond the border."""
    sampler = sampler_of_window(local_window, guide_features)
    similarities = local_window**2 - 1
    assert sampler.lr_offset.in_channels == similarities + 8 * (guide_features == "sim_concat")
    for height, width in ((9, 11), (2, 3)):
        fine = torch.randn(2, 8, 2 * height, 2 * width, dtype=torch.float64)
        coarse = torch.randn(2, 8, height, width, dtype=torch.float64)
        features = torch.randn(2, 4, height, width, dtype=torch.float64)
        torch.testing.assert_close(
            sampler(fine, coarse, features), unfold.resample(sampler, fine, coarse, features)
        )


def test_gradients_through_a_window_of_five():
    sampler = sampler_of_window(5)
    shapes = ((1, 8, 10, 12), (1, 8, 5, 6), (1, 4, 5, 6))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(sampler, inputs, fast_mode=True)
    for weight in (sampler.lr_offset.weight, sampler.hr_scale.weight):
        (gradient,) = torch.autograd.grad(sampler(*inputs).square().sum(), weight)
        # Of the outermost similarities too.
        assert gradient[:, 8:].abs().amax((0, 2, 3)).min() > 0


def test_weights_of_another_window_are_refused():
    with pytest.raises(RuntimeError, match="size mismatch"):
        sampler_of_window(5).load_state_dict(sampler_of_window(3).state_dict())


@pytest.mark.parametrize("groups", [1, 3])
def test_normalised_kernels_sum_to_one(groups):
    logits = torch.randn(2, 25 * groups, 4, 5, dtype=torch.float64) * 10
    for window in (None, hamming_window(5)):
        kernels = normalize_kernels(logits, window, groups=groups)
        assert kernels.min() >= 0
        sums = kernels.unflatten(1, (groups, 25)).sum(2)
        torch.testing.assert_close(sums, torch.ones_like(sums))
    single = unfold.normalize(logits[:, :25], hamming_window(5))
    torch.testing.assert_close(kernels[:, :25], single)


def test_hamming_window_by_hand():
    """For three taps h = (0.08, 1, 0.08)."""
    line = torch.tensor([0.08, 1.0, 0.08])
    torch.testing.assert_close(hamming_window(3), torch.outer(line, line))
    assert hamming_window(1).tolist() == [[1.0]]
    with pytest.raises(ValueError, match="positive"):
        hamming_window(0)


def test_offsets_move_whole_pixels():
    """An offset of one pixel to the right reads the right neighbour; the border repeats."""
    features = torch.arange(12.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1)
    offsets = torch.zeros(1, 2, 2, 3, 4)
    offsets[:, 0, 0] = 1.0  # the first group moves along x
    offsets[:, 1, 1] = -1.0  # the second along y
    moved = sample_at_offsets(features, offsets)
    torch.testing.assert_close(moved[0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 3.0]))
    torch.testing.assert_close(moved[0, 1, :, 0], torch.tensor([0.0, 0.0, 4.0]))


@settings(max_examples=20)
@given(height=st.integers(1, 33), width=st.integers(1, 33), groups=st.sampled_from([1, 2, 4]))
def test_zero_offsets_are_the_identity(height, width, groups):
    features = torch.randn(2, 4, height, width, dtype=torch.float64)
    offsets = torch.zeros(2, 2, groups, height, width, dtype=torch.float64)
    torch.testing.assert_close(sample_at_offsets(features, offsets), features)


def test_low_resolution_features_are_interpolated():
    """Zero offsets on a finer lattice are bilinear upsampling."""
    features = torch.randn(1, 4, 5, 7)
    offsets = torch.zeros(1, 2, 4, 10, 14)
    expected = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(sample_at_offsets(features, offsets), expected)
