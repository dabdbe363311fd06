"""Power of feature maps over frequency, averaged over directions.

Frequencies are in cycles per sample, [0, 0.5] along an axis.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_positive
from freqfusion.layers.sfm.spectrum import SpectrumWindow, power_spectrum

Ring = Literal["circle", "square"]
_HIGHEST = 0.5
# A frequency on the border of two rings lies in the lower one, however it has been rounded.
_ROUNDING = 1e-6


def radial_power_spectrum(
    features: Tensor,
    *,
    bins: int | None = None,
    remove_dc: bool = True,
    window: SpectrumWindow | None = None,
    ring: Ring = "circle",
) -> tuple[Tensor, Tensor]:
    """Mean power over channels and over rings of equal frequency.

    The power of a frequency is ``|FFT2|^2 / (H * W)``: white noise of variance one has the power
    one everywhere, at any size, so that maps of several sizes can be averaged.

    Args:
        features: (B, C, H, W) of any floating type, or integers.
        bins: Rings of equal width between 0 and 0.5 cycles per sample; by default half of the
            shorter side, the most that leaves no ring empty on maps of even size.
        remove_dc: Leave the mean of each channel out, which outweighs all else behind a ReLU.
        window: ``"hann"`` fades the image out towards its border, whose jump would leak into all
            frequencies.
        ring: ``"circle"``: by the length of the frequency; the corners beyond 0.5 are left out.
            ``"square"``: by the greater of its horizontal and vertical part, as strided layers
            and the aliasing ratio have it; all of the power is in it.

    Returns:
        The middle (bins,) of each ring, and the power (B, bins), nan for rings in which maps of
        this size have no frequency. Ring i reaches from above ``i / (2 * bins)`` up to and with
        ``(i + 1) / (2 * bins)``; the lowest has 0 too, unless it is left out.

    Raises:
        ValueError: if the features are no batch of maps, or an argument is out of range.
    """
    check_choice(Ring, ring=ring)
    power = power_spectrum(features, remove_dc=remove_dc, window=window).mean(dim=1)
    height, width = power.shape[-2:]
    power = power.flatten(1) / (height * width)
    bins = max(min(height, width) // 2, 1) if bins is None else bins
    check_positive(bins=bins)
    down, across = (
        torch.fft.fftfreq(size, dtype=torch.float64, device=power.device).abs()
        for size in (height, width)
    )
    if ring == "circle":
        distance = torch.hypot(down[:, None], across[None]).flatten()
    else:
        distance = torch.maximum(down[:, None], across[None]).flatten()
    is_inside = distance <= _HIGHEST + _ROUNDING
    if remove_dc:
        is_inside[0] = False
    index = (torch.ceil(distance * bins / _HIGHEST - _ROUNDING) - 1).clamp(0, bins - 1).long()
    index = index[is_inside]
    counts = torch.zeros(bins, dtype=power.dtype, device=power.device)
    counts.index_add_(0, index, torch.ones_like(counts[:1]).expand(len(index)))
    sums = power.new_zeros(len(power), bins).index_add_(1, index, power[:, is_inside])
    frequencies = (torch.arange(bins, dtype=power.dtype, device=power.device) + 0.5) / bins
    return frequencies * _HIGHEST, torch.where(counts > 0, sums / counts, math.nan)
