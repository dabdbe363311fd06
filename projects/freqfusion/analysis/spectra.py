"""Power of feature maps and response of predicted kernels over frequency.

Frequencies are in cycles per sample, [0, 0.5] along an axis. A kernel K that sums to one lets
through ``|K(f)|`` of a wave of frequency f of the map it reads. What is taken from the fine map is
``1 - K``, and with the map itself ``2 - K`` (FreqFusion, TPAMI 2024, sections 3.2 and 3.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from freqfusion.analysis.running import RunningMean
from freqfusion.layers.checks import check_choice, check_positive
from freqfusion.layers.sfm.spectrum import power_spectrum

_HIGHEST = 0.5
# A frequency on the border of two rings lies in the lower one, however it has been rounded.
_ROUNDING = 1e-6

_BINS = 16
Filter = Literal["smoothing", "detail", "sharpening"]
# What a filter keeps of the map itself, and the sign of the kernel in it.
_FILTERS = {"smoothing": (0.0, 1.0), "detail": (1.0, -1.0), "sharpening": (2.0, -1.0)}
# Pixels at a time: some ten megabytes in between.
_CHUNK = 1 << 14


def radial_power_spectrum(
    features: Tensor, *, bins: int | None = None, remove_dc: bool = True
) -> tuple[Tensor, Tensor]:
    """Return mean power over channels and over rings of equal frequency.

    The frequency of a wave is the greater of its horizontal and vertical part, as strided layers
    and the aliasing ratio have it, so that rings are squares and all of the power is in them.

    The power of a frequency is ``|FFT2|^2 / (H * W)``: white noise of variance one has the power
    one everywhere, at any size, so that maps of several sizes can be averaged.

    Args:
        features: (B, C, H, W) of any floating type, or integers.
        bins: Rings of equal width between 0 and 0.5 cycles per sample; by default half of the
            shorter side, the most that leaves no ring empty on maps of even size.
        remove_dc: Leave the mean of each channel out, which outweighs all else behind a ReLU.

    Returns:
        The middle (bins,) of each ring, and the power (B, bins), nan for rings in which maps of
        this size have no frequency. Ring i reaches from above ``i / (2 * bins)`` up to and with
        ``(i + 1) / (2 * bins)``; the lowest has 0 too, unless it is left out.

    Raises:
        ValueError: if the features are no batch of maps, or an argument is out of range.
    """
    power = power_spectrum(features, remove_dc=remove_dc).mean(dim=1)
    height, width = power.shape[-2:]
    power = power.flatten(1) / (height * width)
    bins = max(min(height, width) // 2, 1) if bins is None else bins
    check_positive(bins=bins)
    down, across = (
        torch.fft.fftfreq(size, dtype=torch.float64, device=power.device).abs()
        for size in (height, width)
    )
    distance = torch.maximum(down[:, None], across[None]).flatten()
    index = (torch.ceil(distance * bins / _HIGHEST - _ROUNDING) - 1).clamp(0, bins - 1).long()
    first = int(remove_dc)
    index, power = index[first:], power[:, first:]
    counts = torch.zeros(bins, dtype=power.dtype, device=power.device)
    counts.index_add_(0, index, torch.ones_like(counts[:1]).expand(len(index)))
    sums = power.new_zeros(len(power), bins).index_add_(1, index, power)
    frequencies = (torch.arange(bins, dtype=power.dtype, device=power.device) + 0.5) / bins
    return frequencies * _HIGHEST, torch.where(counts > 0, sums / counts, math.nan)


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

    Rings are as many as half of the shorter side of the first map, at most 16. Smaller maps leave
    rings empty, which count as missing.
    """

    def __init__(self) -> None:
        self._bins = 0
        self._frequencies = torch.zeros(0)
        self._power = RunningMean()
        self._images = 0

    def update(self, features: Tensor) -> None:
        """Take the maps (B, C, H, W) of one or more images; B, H and W may differ each time."""
        self._bins = self._bins or max(min(*features.shape[-2:], 2 * _BINS) // 2, 1)
        frequencies, power = radial_power_spectrum(features.detach(), bins=self._bins)
        self._frequencies = frequencies.double().cpu()
        for one in power:
            self._power.update(one)
            self._images += 1

    def result(self) -> Spectrum:
        """Return the average so far.

        Raises:
            ValueError: if there were no images.
        """
        if not self._images:
            raise ValueError("there is no spectrum of no image; call update with feature maps")
        return Spectrum(self._frequencies, self._power.mean, self._images)


@dataclass(frozen=True)
class Response:
    """Mean and standard deviation of the response over all pixels, (frequencies,) each."""

    frequencies: Tensor
    mean: Tensor
    deviation: Tensor
    images: int


def kernel_response(
    kernels: Tensor, frequencies: Tensor, *, filter: Filter = "smoothing", directions: int = 8
) -> Tensor:
    """Return magnitude of the response of every pixel's kernel, mean over directions.

    Args:
        kernels: (B, k * k, H, W), taps row by row, k odd.
        frequencies: (F,) in cycles per sample.
        filter: ``"smoothing"``: the kernel itself; ``"detail"``: what it takes away;
            ``"sharpening"``: the map and what the kernel takes away.
        directions: Over so many evenly spaced ones, the first along the rows.

    Returns:
        (B, F, H, W), float32 or float64.

    Raises:
        ValueError: if the kernels are not square and of odd width.
    """
    check_choice(Filter, filter=filter)
    check_positive(directions=directions)
    dtype = torch.promote_types(kernels.dtype, torch.float32)
    cosines, sines = _waves(_width(kernels), frequencies.to(kernels.device, dtype), directions)
    share, sign = _FILTERS[filter]
    pixels = kernels.to(dtype).flatten(2)
    chunks = []
    for part in pixels.split(_CHUNK, dim=2):
        real = share + sign * (cosines @ part)
        magnitude = torch.hypot(real, sines @ part)
        chunks.append(magnitude.unflatten(1, (-1, directions)).mean(dim=2))
    response: Tensor = torch.cat(chunks, dim=2).unflatten(2, kernels.shape[-2:])
    return response


class MeanResponse:
    """Averages the response over all pixels of images of any sizes, with memory for one of them.

    Args:
        filter: As for :func:`kernel_response`.
        steps: Number of frequencies, from 0 to 0.5 with both.
    """

    def __init__(self, *, filter: Filter = "smoothing", steps: int = 17) -> None:
        check_choice(Filter, filter=filter)
        check_positive(steps=steps)
        self._filter = filter
        self.frequencies = torch.linspace(0, _HIGHEST, steps, dtype=torch.float64)
        self._sums = torch.zeros(2, steps, dtype=torch.float64)
        self._pixels = self._images = 0

    def update(self, kernels: Tensor) -> None:
        """Take the kernels (B, k * k, H, W) of one or more images; B, H and W may differ."""
        response = kernel_response(kernels.detach(), self.frequencies, filter=self._filter)
        moments = torch.stack([response.double(), response.double().square()])
        self._sums += moments.sum(dim=(1, 3, 4)).cpu()
        batch, _, height, width = kernels.shape
        self._pixels += batch * height * width
        self._images += batch

    def result(self) -> Response:
        """Return the average so far.

        Raises:
            ValueError: if there were no kernels.
        """
        if not self._pixels:
            raise ValueError("there is no response of no kernel; call update with kernels")
        mean, square = self._sums / self._pixels
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        return Response(self.frequencies, mean, deviation, self._images)


def _waves(width: int, frequencies: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (F * directions, width ** 2) of each frequency at every tap."""
    angles = torch.arange(directions, device=frequencies.device, dtype=frequencies.dtype)
    angles = angles * (math.pi / directions)
    across, down = (
        (frequencies[:, None] * part).flatten() for part in (torch.cos(angles), torch.sin(angles))
    )
    taps = torch.arange(width, device=frequencies.device, dtype=frequencies.dtype) - width // 2
    phases = down[:, None, None] * taps[:, None] + across[:, None, None] * taps
    phases = 2 * math.pi * phases.flatten(1)
    return phases.cos(), phases.sin()


def _width(kernels: Tensor) -> int:
    width = math.isqrt(kernels.shape[1]) if kernels.dim() == 4 else 0
    if width % 2 == 0 or width**2 != kernels.shape[1]:
        raise ValueError(
            "kernels must be (batch, k * k, height, width) with an odd k; got "
            f"{tuple(kernels.shape)}"
        )
    return width
