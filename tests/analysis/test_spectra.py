"""Spectra of maps and of data sets: tones in their ring, white noise at one."""

import math

import pytest
import torch

from freqfusion.analysis import MeanSpectrum, radial_power_spectrum
from freqfusion.layers.sfm import aliasing_ratio


def tone(cycles_across, cycles_down=0, size=32):
    """A wave of amplitude 1 with whole numbers of cycles per image."""
    line = torch.arange(size, dtype=torch.float64) / size
    return torch.cos(2 * math.pi * (cycles_across * line + cycles_down * line[:, None]))[None, None]


def ring_sizes(bins, size):
    """How many frequencies of a map each ring has, found one by one."""
    counts = [0] * bins
    for row in range(size):
        for column in range(size):
            length = max(min(row, size - row), min(column, size - column)) / size
            for number in range(bins):
                low, high = number / (2 * bins), (number + 1) / (2 * bins)
                if low < length - 1e-9 and length <= high + 1e-9:
                    counts[number] += 1
    return counts


@pytest.mark.parametrize(
    ("across", "down", "at"), [(5, 0, 4), (0, 5, 4), (3, 4, 3), (14, 14, 13), (16, 0, 15)]
)
def test_tone_lies_in_its_ring(across, down, at):
    """32 pixels, 16 rings: ring i has lengths in (i, i + 1] cycles per image.

    cos has |FFT|^2 = (N^2 / 2)^2 at two places, so (N^2 / 4) each after division by N^2, 512 in
    all; at the highest frequency both places are one, with the power of 1024.
    """
    frequencies, power = radial_power_spectrum(tone(across, down))
    total = 1024 if across == 16 else 512
    assert torch.allclose(frequencies, (torch.arange(16).double() + 0.5) / 32)
    expected = torch.zeros(16, dtype=torch.float64)
    expected[at] = total / ring_sizes(16, 32)[at]
    assert power.shape == (1, 16)
    assert torch.allclose(power[0], expected, atol=1e-9)


@pytest.mark.parametrize("size", [(32, 32), (48, 33), (17, 64)])
def test_white_noise_is_one_everywhere(size):
    noise = torch.randn(2, 400, *size, generator=torch.Generator().manual_seed(0))
    _, power = radial_power_spectrum(noise, bins=8)
    assert torch.allclose(power, torch.ones(2, 8), atol=0.05)


def test_power_above_the_limit_is_the_aliasing_ratio():
    """Rings of squares, weighted by how many frequencies they have."""
    features = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    frequencies, power = radial_power_spectrum(features)
    parts = power[0] * torch.tensor(ring_sizes(8, 16))
    share = parts[frequencies > 0.25].sum() / parts.sum()
    assert share == pytest.approx(aliasing_ratio(features, remove_dc=True).item(), rel=1e-5)


def test_mean_counts_only_where_it_is_kept():
    features = torch.full((1, 2, 8, 8), 3.0)
    assert radial_power_spectrum(features)[1].abs().max() < 1e-9
    # |FFT|^2 = (64 * 3)^2 at zero, over 64 pixels, over the 1 + 8 frequencies of the lowest ring.
    kept = radial_power_spectrum(features, remove_dc=False)[1]
    assert kept[0, 0].item() == pytest.approx(64 * 9 / 9)
    assert kept[0, 1:].abs().max() < 1e-9


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 3), (7, 5)])
def test_small_maps_have_empty_rings(size):
    frequencies, power = radial_power_spectrum(torch.randn(1, 2, *size), bins=32)
    assert len(frequencies) == 32
    assert power.isnan().any()
    assert not power.isinf().any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 0}, "bins must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        radial_power_spectrum(torch.zeros(1, 1, 4, 4), **arguments)
    with pytest.raises(ValueError, match=r"must be \(batch, channels, height, width\)"):
        radial_power_spectrum(torch.zeros(4, 4))


def wave(size, cycles, amplitude=1.0):
    """A cosine along the rows of an image (1, 1, size, size)."""
    x = torch.arange(size, dtype=torch.float64)
    return (amplitude * torch.cos(2 * math.pi * cycles * x)).expand(1, 1, size, size)


def test_average_of_images_is_that_of_their_spectra():
    """One at a time or in batches, the same numbers as the mean over all images at once."""
    features = torch.randn(5, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    whole, parts = MeanSpectrum(), MeanSpectrum()
    whole.update(features)
    parts.update(features[:2])
    parts.update(features[2:])
    expected = radial_power_spectrum(features)[1].double().mean(dim=0)
    torch.testing.assert_close(whole.result().power, expected)
    torch.testing.assert_close(parts.result().power, expected)
    assert whole.result().images == parts.result().images == 5


def test_sizes_differ():
    """A wave of 1/8 cycle per pixel: the power of a 2 x 2 times as large image is in one ring.

    cos has the power size^2 / 4 at each of +-1/8, all other frequencies none; a ring of width 1/32
    has n frequencies, so that its mean is size^2 / (2 n): 32 x 32 and 64 x 64 are close.
    """
    mean = MeanSpectrum()
    for size in (32, 64):
        mean.update(wave(size, 1 / 8))
    power = mean.result().power
    assert int(power.argmax()) == 3
    assert float(power[torch.arange(16) != 3].max()) < 1e-9
    alone = [float(radial_power_spectrum(wave(size, 1 / 8), bins=16)[1][0, 3]) for size in (32, 64)]
    assert float(power[3]) == pytest.approx(sum(alone) / 2)


def test_small_maps_leave_rings_empty():
    """A map of 4 x 4 has no frequency below 1/4: what larger maps have there stays."""
    mean = MeanSpectrum()
    mean.update(wave(32, 1 / 16))
    before = mean.result().power
    mean.update(wave(4, 1 / 4))
    torch.testing.assert_close(mean.result().power[:7], before[:7])
    assert not mean.result().power.isnan().any()


@pytest.mark.parametrize(("size", "bins"), [((8, 11), 4), ((70, 90), 16), ((1, 5), 1)])
def test_rings_fit_the_first_map(size, bins):
    mean = MeanSpectrum()
    mean.update(torch.ones(1, 2, *size))
    mean.update(torch.ones(1, 2, 64, 64))
    assert mean.result().power.shape == mean.result().frequencies.shape == (bins,)


def test_no_image():
    with pytest.raises(ValueError, match="no image"):
        MeanSpectrum().result()
