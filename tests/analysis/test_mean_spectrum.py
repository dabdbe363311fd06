"""Averages over images of several sizes, and spectra of kernels known in closed form."""

import math

import pytest
import torch
from torch import nn

from freqfusion.analysis import MeanSpectrum, generator_spectrum, radial_power_spectrum


def wave(size, cycles, amplitude=1.0):
    """A cosine along the rows of an image (1, 1, size, size)."""
    x = torch.arange(size, dtype=torch.float64)
    return (amplitude * torch.cos(2 * math.pi * cycles * x)).expand(1, 1, size, size)


def test_average_of_images_is_that_of_their_spectra():
    """One at a time or in batches, the same numbers as the mean over all images at once."""
    features = torch.randn(5, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    whole, parts = MeanSpectrum(bins=8), MeanSpectrum(bins=8)
    whole.update(features)
    parts.update(features[:2])
    parts.update(features[2:])
    expected = radial_power_spectrum(features, bins=8)[1].double().mean(dim=0)
    torch.testing.assert_close(whole.result().power, expected)
    torch.testing.assert_close(parts.result().power, expected)
    assert whole.result().images == parts.result().images == 5


def test_sizes_differ():
    """A wave of 1/8 cycle per pixel: the power of a 2 x 2 times as large image is in one ring.

    cos has the power size^2 / 4 at each of +-1/8, all other frequencies none; a ring of width 1/16
    around has n frequencies, so that its mean is size^2 / (2 n): 32 x 32 and 64 x 64 are close.
    """
    mean = MeanSpectrum(bins=8)
    for size in (32, 64):
        mean.update(wave(size, 1 / 8))
    power = mean.result().power
    assert int(power.argmax()) == 1
    assert float(power[torch.arange(8) != 1].max()) < 1e-9
    alone = [float(radial_power_spectrum(wave(size, 1 / 8), bins=8)[1][0, 1]) for size in (32, 64)]
    assert float(power[1]) == pytest.approx(sum(alone) / 2)


def test_small_maps_leave_rings_empty():
    """A map of 4 x 4 has no frequency below 1/4: what larger maps have there stays."""
    mean = MeanSpectrum(bins=8)
    mean.update(wave(4, 1 / 4))
    assert mean.result().power[:3].isnan().all()
    mean.update(wave(32, 1 / 16))
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
    with pytest.raises(ValueError, match="bins"):
        MeanSpectrum(bins=0)


def convolution(weights, **options):
    weights = torch.tensor(weights, dtype=torch.float32)
    layer = nn.Conv2d(1, 1, tuple(weights.shape), **options)
    with torch.no_grad():
        layer.weight.copy_(weights)
    return layer


def test_single_tap_is_white():
    """A kernel with one tap w has |K|^2 = w^2 at every frequency, wherever the tap is."""
    spectrum = generator_spectrum(convolution([[0, 0, 0], [0, 0, 0], [0, 3, 0]]))
    torch.testing.assert_close(spectrum.power, torch.full((16,), 9.0, dtype=torch.float64))


def test_difference_passes_high_and_sum_passes_low():
    """[1, 1] x [1, 1] has |K|^2 = 16 cos^2(pi u) cos^2(pi v); [1, -1] x [1, -1] has the sines."""
    low = generator_spectrum(convolution([[1, 1], [1, 1]])).power
    high = generator_spectrum(convolution([[1, -1], [-1, 1]])).power
    assert (low.diff() < 0).all()
    assert (high.diff() > 0).all()
    assert 15 < float(low[0]) < 16
    assert float(high[0]) < 0.02


def test_dilation_repeats_the_spectrum():
    """With a dilation of two, [1, 1] is zero at a quarter and back at its most at a half."""
    plain = generator_spectrum(convolution([[1, 1], [1, 1]])).power
    dilated = generator_spectrum(convolution([[1, 1], [1, 1]], dilation=2)).power
    assert float(dilated[:8].mean()) > 2 * float(dilated[6:9].mean())
    assert float(dilated[-1]) > 5 * float(plain[-1])


def test_mean_over_pairs_of_channels():
    """Two outputs of one tap each, 1 and 3: the mean of 1 and 9."""
    layer = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    power = generator_spectrum(layer, bins=4).power
    torch.testing.assert_close(power, torch.full((4,), 5.0, dtype=torch.float64))
