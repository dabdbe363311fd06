"""The aliasing ratio on tones and noise whose spectrum is known."""

import math

import pytest
import torch

from freqfusion.layers.sfm.spectrum import aliasing_ratio, equivalent_sampling_rate


def tone(cycles, size=64, *, along="x"):
    """A wave of whole cycles per image, (1, 1, size, size)."""
    wave = torch.cos(2 * math.pi * cycles * torch.arange(size) / size).expand(1, 1, size, size)
    return wave if along == "x" else wave.mT


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize("size", [12, 49, 64, 120])
@pytest.mark.parametrize("stride", [2, 3, 5])
def test_a_tone_on_the_limit_is_safe_at_every_size(size, stride, along):
    """Invariant 23: the last whole cycle within the limit counts as safe, the next one does not.

    16 cycles in 64 pixels are 0.25 cycles per pixel exactly.
    """
    limit = size // (2 * stride)
    below, above = (
        aliasing_ratio(tone(cycles, size, along=along), stride=stride)
        for cycles in (limit, limit + 1)
    )
    assert below.shape == (1,)
    assert below.item() < 1e-6
    assert above.item() > 1 - 1e-6


def test_white_noise():
    """Invariant 23: 33 of 64 frequencies are safe along each axis; 1 - 33^2 / 64^2 = 0.734."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 32, 64, 64, generator=generator)
    expected = 1 - 33**2 / 64**2
    assert aliasing_ratio(noise).tolist() == pytest.approx([expected] * 2, abs=0.003)


def test_channels_are_summed_and_images_kept_apart():
    """Amplitudes 1 (safe) and 2 (above): 4 of 5 parts of the power; the other image has none."""
    first = torch.cat([tone(4), 2 * tone(20)], dim=1)
    second = torch.cat([tone(4), tone(5)], dim=1)
    found = aliasing_ratio(torch.cat([first, second]))
    assert found.tolist() == pytest.approx([0.8, 0.0], abs=1e-6)


def test_mean_can_be_left_out():
    """A wave of amplitude 1 has the power of a constant of sqrt(1/2)."""
    image = tone(20) + math.sqrt(0.5)
    assert aliasing_ratio(image).item() == pytest.approx(0.5, abs=1e-6)
    assert aliasing_ratio(image, remove_dc=True).item() == pytest.approx(1, abs=1e-6)


def test_nyquist_frequency_can_be_given():
    """20 of 64 is 0.3125: above 0.25, below half of the equivalent sampling rate 0.707."""
    rate = equivalent_sampling_rate(3, 2, 64, 128)
    assert aliasing_ratio(tone(20)).item() > 0.99
    assert aliasing_ratio(tone(20), f_nyquist=rate / 2).item() < 0.01


def test_window_keeps_the_border_from_leaking():
    """Half a cycle across the image jumps at the border, though it has no detail."""
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    plain, faded = aliasing_ratio(ramp), aliasing_ratio(ramp, window="hann")
    assert plain > 0.01
    assert faded < plain / 1000


def test_image_without_power():
    image = torch.stack([torch.zeros(2, 5, 7), torch.ones(2, 5, 7)])
    assert aliasing_ratio(image).tolist() == pytest.approx([0, 0], abs=1e-7)
    assert aliasing_ratio(image, remove_dc=True).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("kernel", "stride", "c_in", "c_out", "expected"),
    [
        (3, 2, 64, 128, math.sqrt(2) / 2),  # channels double
        (1, 2, 256, 512, 0.5),  # a kernel of one sees one pixel, whatever it makes of it
        (3, 2, 3, 64, 1.0),
        (3, 1, 64, 64, 1.0),
    ],
)
def test_equivalent_sampling_rate(kernel, stride, c_in, c_out, expected):
    """Invariant 23."""
    assert equivalent_sampling_rate(kernel, stride, c_in, c_out) == pytest.approx(expected)
