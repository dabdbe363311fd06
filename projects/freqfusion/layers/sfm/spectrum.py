"""How much of a feature map a strided layer would alias.

The aliasing ratio of Chen et al., Spatial Frequency Modulation, TPAMI 2025, is public in words
only: the power above the Nyquist frequency of the downsampling, in all power. The square pass band
and the closed form of the equivalent sampling rate are our reading. Frequencies are in cycles per
sample, [0, 0.5] along an axis.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_positive
from freqfusion.layers.sampling import wide_dtype

SpectrumWindow = Literal["hann"]
# A frequency on the limit is safe, however the limit has been rounded.
_ROUNDING = 1e-6


def aliasing_ratio(
    features: Tensor,
    *,
    stride: int = 2,
    f_nyquist: float | None = None,
    remove_dc: bool = False,
    window: SpectrumWindow | None = None,
) -> Tensor:
    """Share of the power at horizontal or vertical frequencies above the Nyquist frequency.

    Note that interpolation is a low-pass filter too: a bilinear shift by a quarter of a pixel can
    halve this number. Compare maps that were resampled alike, or resampled bicubically.

    Args:
        features: (B, C, H, W) of any floating type, or integers.
        stride: Stride of the downsampling, whose Nyquist frequency is ``1 / (2 * stride)``.
        f_nyquist: Another Nyquist frequency in (0, 0.5], for example half of
            :func:`equivalent_sampling_rate`.
        remove_dc: Subtract each channel's mean. Without it, the mean of features behind a ReLU
            outweighs all else.
        window: ``"hann"`` fades the image out towards its border, whose jump would leak into all
            frequencies.

    Returns:
        (B,) in [0, 1]: 0 is also the answer for an image without power. Float32, or float64 where
        the features are.

    Raises:
        ValueError: if the features are no batch of maps, or an argument is out of range.
    """
    check_positive(stride=stride)
    if f_nyquist is None:
        f_nyquist = 1 / (2 * stride)
    elif not 0 < f_nyquist <= 0.5:
        raise ValueError(f"f_nyquist must lie in (0, 0.5] cycles per sample, got {f_nyquist}")
    power = power_spectrum(features, remove_dc=remove_dc, window=window).sum(dim=1)
    high = (power * _is_above(features, f_nyquist)).sum(dim=(1, 2))
    total = power.sum(dim=(1, 2))
    is_silent = total == 0
    ratio: Tensor = high / total.masked_fill(is_silent, 1)
    return ratio.clamp(max=1)


def power_spectrum(
    features: Tensor, *, remove_dc: bool = False, window: SpectrumWindow | None = None
) -> Tensor:
    """Squared magnitude of the 2-D Fourier transform of each channel, in the order of ``fftfreq``.

    Args:
        features: (B, C, H, W) of any floating type, or integers.
        remove_dc: Subtract each channel's mean first.
        window: ``"hann"`` fades the image out towards its border.

    Returns:
        (B, C, H, W), float32, or float64 where the features are.

    Raises:
        ValueError: if the features are no batch of maps.
    """
    if features.dim() != 4:
        raise ValueError(
            f"features must be (batch, channels, height, width), got {tuple(features.shape)}"
        )
    # Half precision transforms exist on some devices and for some sizes only.
    features = features.to(wide_dtype(features))
    if remove_dc:
        features = features - features.mean(dim=(2, 3), keepdim=True)
    if window is not None:
        check_choice(SpectrumWindow, window=window)
        features = features * _hann(features)
    power: Tensor = torch.fft.fft2(features).abs().square()
    return power


def equivalent_sampling_rate(kernel: int, stride: int, c_in: int, c_out: int) -> float:
    """Sampling rate of a strided convolution that may keep detail in additional channels.

    ``min(1, min(kernel, sqrt(c_out / c_in)) / stride)``: a closed form of our own that gives the
    only value known from the author's related code, a cut-off of 0.25 * 1.4 for a stride of two
    that doubles the channels. Verify it before quoting it. Half of it is the Nyquist frequency for
    :func:`aliasing_ratio`.
    """
    check_positive(kernel=kernel, stride=stride, c_in=c_in, c_out=c_out)
    return min(1.0, min(kernel, math.sqrt(c_out / c_in)) / stride)


def _is_above(features: Tensor, f_nyquist: float) -> Tensor:
    """True at the frequencies (H, W) that lie above the limit along an axis.

    Cycles per image are compared, which are whole numbers.
    """
    rows, columns = (
        torch.fft.fftfreq(size, 1 / size, device=features.device).abs()
        > f_nyquist * size + _ROUNDING
        for size in features.shape[-2:]
    )
    above: Tensor = rows[:, None] | columns
    return above


def _hann(features: Tensor) -> Tensor:
    """A window (H, W) that is zero just outside the image."""
    rows, columns = (
        torch.hann_window(size + 2, periodic=False, dtype=features.dtype, device=features.device)
        for size in features.shape[-2:]
    )
    product: Tensor = rows[1:-1, None] * columns[1:-1]
    return product
