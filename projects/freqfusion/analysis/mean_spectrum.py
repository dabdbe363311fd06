"""Spectra of many feature maps, averaged one image at a time, and of learned kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freqfusion.analysis.running import RunningMean
from freqfusion.analysis.spectra import radial_power_spectrum
from freqfusion.layers.checks import check_positive
from freqfusion.layers.sfm.spectrum import SpectrumWindow

_BINS = 16


@dataclass(frozen=True)
class Spectrum:
    """Mean power over rings of equal frequency; both (bins,), float64.

    Frequencies are in cycles per sample up to 0.5. A ring in which no map had a frequency is nan.
    """

    frequencies: Tensor
    power: Tensor
    images: int = 1


class MeanSpectrum:
    """Averages the radial spectrum over images of any sizes, with memory for one of them.

    Args:
        bins: Rings between 0 and 0.5 cycles per sample; by default half of the shorter side of the
            first map, at most 16. Smaller maps leave rings empty, which count as missing.
        window: ``"hann"`` or none, as for :func:`radial_power_spectrum`.
    """

    def __init__(self, *, bins: int | None = None, window: SpectrumWindow | None = None) -> None:
        if bins is not None:
            check_positive(bins=bins)
        self._bins, self._window = bins, window
        self._frequencies = torch.zeros(0)
        self._power = RunningMean()
        self._images = 0

    def update(self, features: Tensor) -> None:
        """Take the maps (B, C, H, W) of one or more images; B, H and W may differ each time."""
        if self._bins is None:
            self._bins = max(min(*features.shape[-2:], 2 * _BINS) // 2, 1)
        frequencies, power = radial_power_spectrum(
            features.detach(), bins=self._bins, window=self._window
        )
        self._frequencies = frequencies.double().cpu()
        for one in power:
            self._power.update(one)
            self._images += 1

    def result(self) -> Spectrum:
        """The average so far.

        Raises:
            ValueError: if there were no images.
        """
        if not self._images:
            raise ValueError("there is no spectrum of no image; call update with feature maps")
        return Spectrum(self._frequencies, self._power.mean, self._images)


def generator_spectrum(convolution: nn.Conv2d, *, bins: int = _BINS) -> Spectrum:
    """Power of a convolution's kernels, mean over all pairs of channels.

    It is ``|K(f)|^2`` of the kernel in an infinite image, so that kernels without structure have
    the same power, the sum of their squares, at every frequency. Dilation is taken into account.
    """
    weights = convolution.weight.detach().double()
    rows, columns = (
        distance * (taps - 1) + 1
        for distance, taps in zip(convolution.dilation, weights.shape[-2:], strict=True)
    )
    # As many samples as leave no ring empty.
    size = max(2 * bins, rows, columns)
    image = weights.new_zeros(1, weights.shape[0] * weights.shape[1], size, size)
    step_down, step_across = convolution.dilation
    image[..., :rows:step_down, :columns:step_across] = weights.flatten(0, 1)
    frequencies, power = radial_power_spectrum(image, bins=bins, remove_dc=False)
    return Spectrum(frequencies.cpu(), power[0].cpu() * size**2)
