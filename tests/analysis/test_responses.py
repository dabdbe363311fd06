"""Responses of kernels that can be derived by hand, and what the filters do to real waves."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freqfusion.analysis import MeanResponse, kernel_response
from freqfusion.layers import reassemble

FREQUENCIES = torch.tensor([0.0, 0.125, 0.25, 0.5], dtype=torch.float64)


def constant(weights, size=(3, 4)):
    """The same kernel at every pixel, (1, k * k, *size)."""
    taps = torch.tensor(weights, dtype=torch.float64).flatten()
    return taps[None, :, None, None].expand(1, -1, *size)


def test_single_tap():
    """The kernel that changes nothing lets everything through; nothing is taken away."""
    kernels = constant([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
    for kind, expected in (("smoothing", 1), ("detail", 0), ("sharpening", 1)):
        response = kernel_response(kernels, FREQUENCIES, filter=kind)
        assert response.shape == (1, 4, 3, 4)
        torch.testing.assert_close(response, torch.full_like(response, expected))


def test_box_along_the_rows():
    """The mean of 3 x 3: (1 + 2 cos 2 pi f) / 3, at 0, 1/8, 1/4, 1/2: 1, 0.805, 1/3, -1/3."""
    kernels = constant([[1 / 9] * 3] * 3)
    expected = (1 + 2 * torch.cos(2 * math.pi * FREQUENCIES)) / 3
    for kind, value in (
        ("smoothing", expected.abs()),
        ("detail", 1 - expected),
        ("sharpening", 2 - expected),
    ):
        response = kernel_response(kernels, FREQUENCIES, filter=kind, directions=1)
        torch.testing.assert_close(response[0, :, 1, 2], value)


def test_taps_and_directions():
    """A shift by one column turns the phase only: what it takes is |1 - exp(i 2 pi f)| = 2 sin.

    Down the columns (the second of two directions) it is no shift at all.
    """
    kernels = constant([[0, 0, 0], [0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(
        kernel_response(kernels, FREQUENCIES)[0, :, 0, 0], torch.ones(4, dtype=torch.float64)
    )
    along = kernel_response(kernels, FREQUENCIES, filter="detail", directions=1)[0, :, 0, 0]
    torch.testing.assert_close(along, 2 * torch.sin(math.pi * FREQUENCIES))
    both = kernel_response(kernels, FREQUENCIES, filter="detail", directions=2)[0, :, 0, 0]
    torch.testing.assert_close(both, along / 2)
    down = constant([[0, 0, 0], [0, 0, 0], [0, 1, 0]])
    still = kernel_response(down, FREQUENCIES, filter="detail", directions=1)
    torch.testing.assert_close(still, torch.zeros_like(still))


@given(seed=st.integers(0, 1000), cycles=st.sampled_from([0, 1, 3, 8]))
def test_what_reassembly_does_to_a_wave(seed, cycles):
    """A symmetric kernel scales the cosine at a pixel by its response: measured, not derived."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.rand(5, 5, generator=generator, dtype=torch.float64)
    kernel = (kernel + kernel.flip(0, 1)) / (2 * kernel.sum())
    frequency = torch.tensor([cycles / 16], dtype=torch.float64)
    x = torch.arange(16, dtype=torch.float64)
    image = torch.cos(2 * math.pi * frequency * x).expand(1, 1, 16, 16)
    kernels = kernel.flatten()[None, :, None, None].expand(1, -1, 16, 16)
    smooth = reassemble(image, kernels, kernel_size=5)
    # At column 8 - all these waves are at a crest there or their negative - away from the border.
    ratio = smooth[0, 0, 8, 8] / image[0, 0, 8, 8]
    response = kernel_response(kernels, frequency, directions=1)[0, 0, 8, 8]
    torch.testing.assert_close(response, ratio.abs())


def test_mean_over_pixels_of_images_of_several_sizes():
    """One pixel that shifts nothing (1) and three of the box: mean and spread over the four."""
    box, point = [[1 / 9] * 3] * 3, [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    mean = MeanResponse(steps=3)
    mean.update(constant(point, (1, 1)))
    mean.update(constant(box, (1, 3)).float())
    result = mean.result()
    frequencies = torch.tensor([0, 0.25, 0.5], dtype=torch.float64)
    torch.testing.assert_close(result.frequencies, frequencies)
    at_box = kernel_response(constant(box), frequencies)[0, :, 0, 0]
    torch.testing.assert_close(result.mean, (1 + 3 * at_box) / 4, rtol=1e-6, atol=0)
    values = torch.stack([torch.ones(3, dtype=torch.float64), *[at_box] * 3])
    torch.testing.assert_close(
        result.deviation, values.std(dim=0, correction=0), rtol=1e-5, atol=1e-7
    )
    assert result.images == 2


def test_wrong_arguments():
    for shape in ((1, 4, 2, 2), (1, 10, 2, 2), (9, 2, 2)):
        with pytest.raises(ValueError, match="odd k"):
            kernel_response(torch.ones(shape), FREQUENCIES)
    with pytest.raises(ValueError, match="filter"):
        MeanResponse(filter="lowpass")
    with pytest.raises(ValueError, match="no kernel"):
        MeanResponse().result()


def test_pixels_have_their_own(monkeypatch):
    """Also where the pixels are worked off in several parts."""
    kernels = torch.rand(2, 9, 5, 7, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    whole = kernel_response(kernels, FREQUENCIES)
    monkeypatch.setattr("freqfusion.analysis.spectra._CHUNK", 4)
    torch.testing.assert_close(kernel_response(kernels, FREQUENCIES), whole)
    one = kernel_response(kernels[1:, :, 3:4, 2:3], FREQUENCIES)
    torch.testing.assert_close(whole[1:, :, 3:4, 2:3], one)
