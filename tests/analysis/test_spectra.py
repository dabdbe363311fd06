"""Radial power spectra: tones in their ring, white noise at one, agreement with aliasing ratios."""

import math

import pytest
import torch

from freqfusion.analysis import radial_power_spectrum
from freqfusion.layers.sfm import aliasing_ratio


def tone(cycles_across, cycles_down=0, size=32):
    """A wave of amplitude 1 with whole numbers of cycles per image."""
    line = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * math.pi * (cycles_across * line + cycles_down * line[:, None]))[None, None]


def ring_sizes(bins, ring, size):
    """How many frequencies of a map each ring has, found one by one."""
    counts = [0] * bins
    for row in range(size):
        for column in range(size):
            down, across = min(row, size - row) / size, min(column, size - column) / size
            length = math.hypot(down, across) if ring == "circle" else max(down, across)
            for number in range(bins):
                low, high = number / (2 * bins), (number + 1) / (2 * bins)
                if low < length - 1e-9 and length <= high + 1e-9:
                    counts[number] += 1
    return counts


@pytest.mark.parametrize("ring", ["circle", "square"])
@pytest.mark.parametrize(
    ("across", "down", "circle", "square"),
    [(5, 0, 4, 4), (0, 5, 4, 4), (3, 4, 4, 3), (16, 0, 15, 15)],
)
def test_tone_lies_in_its_ring(ring, across, down, circle, square):
    """32 pixels, 16 rings: ring i has lengths in (i, i + 1] cycles per image.

    cos has |FFT|^2 = (N^2 / 2)^2 at two places, so (N^2 / 4) each after division by N^2, 512 in
    all; at the highest frequency both places are one, with the power of 1024.
    """
    frequencies, power = radial_power_spectrum(tone(across, down), ring=ring)
    at = circle if ring == "circle" else square
    total = 1024 if across == 16 else 512
    assert torch.allclose(frequencies, (torch.arange(16).double() + 0.5) / 32)
    expected = torch.zeros(16, dtype=torch.float64)
    expected[at] = total / ring_sizes(16, ring, 32)[at]
    assert power.shape == (1, 16)
    assert torch.allclose(power[0], expected, atol=1e-9)


def test_corner_is_left_out_of_circles_only():
    """(14, 14) of 32 cycles has the length 19.8 > 16."""
    corner = tone(14, 14)
    assert radial_power_spectrum(corner)[1].sum() < 1e-9
    assert radial_power_spectrum(corner, ring="square")[1][0, 13] > 1


@pytest.mark.parametrize("size", [(32, 32), (48, 33), (17, 64)])
def test_white_noise_is_one_everywhere(size):
    noise = torch.randn(2, 400, *size, generator=torch.Generator().manual_seed(0))
    _, power = radial_power_spectrum(noise, bins=8)
    assert torch.allclose(power, torch.ones(2, 8), atol=0.05)


def test_power_above_the_limit_is_the_aliasing_ratio():
    """Rings of squares, weighted by how many frequencies they have."""
    features = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    frequencies, power = radial_power_spectrum(features, ring="square")
    parts = power[0] * torch.tensor(ring_sizes(8, "square", 16))
    share = parts[frequencies > 0.25].sum() / parts.sum()
    assert share == pytest.approx(aliasing_ratio(features, remove_dc=True).item(), rel=1e-5)


def test_mean_counts_only_where_it_is_kept():
    features = torch.full((1, 2, 8, 8), 3.0)
    assert radial_power_spectrum(features)[1].abs().max() < 1e-9
    # |FFT|^2 = (64 * 3)^2 at zero, over 64 pixels, over the 1 + 8 frequencies of the lowest ring.
    kept = radial_power_spectrum(features, remove_dc=False, ring="square")[1]
    assert kept[0, 0].item() == pytest.approx(64 * 9 / 9)
    assert kept[0, 1:].abs().max() < 1e-9


def test_window_keeps_a_jump_at_the_border_from_leaking():
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    plain, faded = (radial_power_spectrum(ramp, window=w)[1][0, 16:].sum() for w in (None, "hann"))
    assert faded < 0.01 * plain


def test_channels_and_images_are_apart():
    images = torch.cat([tone(3), 2 * tone(9)])
    _, power = radial_power_spectrum(images)
    assert power[0].argmax() == 2
    assert power[1].argmax() == 8
    _, both = radial_power_spectrum(images.transpose(0, 1))
    assert torch.allclose(both[0], power.mean(dim=0))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (7, 5)])
def test_small_maps_have_empty_rings(size):
    frequencies, power = radial_power_spectrum(torch.randn(1, 2, *size), bins=32)
    assert len(frequencies) == 32
    assert power.isnan().any()
    assert not power.isinf().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_any_type_is_computed_in_float32(dtype):
    _, power = radial_power_spectrum((4 * torch.rand(1, 1, 8, 8)).to(dtype))
    assert power.dtype == torch.float32
    assert power.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 0}, "bins must be"),
        ({"ring": "oval"}, "ring must be"),
        ({"window": "kaiser"}, "window must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        radial_power_spectrum(torch.zeros(1, 1, 4, 4), **arguments)
    with pytest.raises(ValueError, match=r"must be \(batch, channels, height, width\)"):
        radial_power_spectrum(torch.zeros(4, 4))
