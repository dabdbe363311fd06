"""Images with thin detail, and the attention that follows it, for the tests of SFM.

Shapes: images (B, 1, size, size), in which b is drawn from ``seed + b``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def smooth_noise(
    size: int, sigma: float, *, batch: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """White noise under a periodic Gaussian of ``sigma`` pixels, of mean 0 and variance 1."""
    images = []
    for item in range(batch):
        generator = torch.Generator().manual_seed(seed + item)
        noise = torch.randn(1, size, size, generator=generator, dtype=torch.float64)
        images.append(blur(noise, sigma))
    image = torch.stack(images)
    image = image - image.mean(dim=(2, 3), keepdim=True)
    return (image / image.std(dim=(2, 3), keepdim=True, correction=0)).to(dtype)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Periodic Gaussian blur of the last two dimensions."""
    rows, columns = (torch.fft.fftfreq(length, dtype=torch.float64) for length in image.shape[-2:])
    gain = torch.exp(-2 * (math.pi * sigma) ** 2 * (rows[:, None] ** 2 + columns**2))
    return torch.fft.ifft2(torch.fft.fft2(image.double()) * gain).real.to(image.dtype)


def band_limited(size: int, cut_off: float, *, batch: int = 1, seed: int = 0) -> Tensor:
    """White noise of variance 1 without any frequency above ``cut_off`` cycles per pixel."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, 1, size, size, generator=generator, dtype=torch.float64)
    frequency = torch.fft.fftfreq(size, dtype=torch.float64)
    passes = torch.hypot(frequency[:, None], frequency[None]) <= cut_off
    image = torch.fft.ifft2(torch.fft.fft2(noise) * passes).real
    return image / image.std(dim=(2, 3), keepdim=True, correction=0)


def curve_distance(noise: Tensor) -> Tensor:
    """Distance in pixels of each pixel from the curves where ``noise`` is zero, to first order."""
    down, across = torch.gradient(noise, dim=(2, 3))
    return noise.abs() / torch.hypot(down, across).clamp(min=1e-12)


def thin_curves(size: int = 128, *, batch: int = 1, seed: int = 0) -> Tensor:
    """Curves about 1.5 pixels wide: exp(-(distance / 0.9)^2) around the zeros of smooth noise."""
    distance = curve_distance(smooth_noise(size, 10, batch=batch, seed=seed))
    return torch.exp(-((distance / 0.9) ** 2))


def binary_curves(size: int = 256, *, batch: int = 1, seed: int = 0) -> Tensor:
    """Curves five pixels wide: 1 within 2.5 pixels of the zeros of smooth noise, 0 elsewhere."""
    return (curve_distance(smooth_noise(size, 24, batch=batch, seed=seed)) < 2.5).double()


def label_edges(size: int = 128, *, classes: int = 4, batch: int = 1, seed: int = 0) -> Tensor:
    """One-hot label maps (B, classes, size, size): which of some smooth noises is the largest."""
    noises = [
        smooth_noise(size, 10, batch=batch, seed=seed + 1000 * index) for index in range(classes)
    ]
    winner = torch.cat(noises, dim=1).argmax(dim=1)
    return torch.nn.functional.one_hot(winner, classes).movedim(-1, 1).double()


def chirp(size: int = 128, *, centre: float = 0.45) -> Tensor:
    """Rings whose frequency falls from ``centre`` cycles per pixel in the middle to 0 outside."""
    line = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    radius, reach = torch.hypot(line[:, None], line[None]), size / 2
    # The frequency centre * (1 - r / reach) is the derivative of this phase.
    phase = centre * (radius - radius**2 / (2 * reach))
    inside = radius < reach
    return torch.where(inside, torch.cos(2 * math.pi * phase), torch.zeros(()))[None, None]


def texture_patch(
    size: int = 128, *, width: int = 32, frequency: float = 0.3, seed: int = 0
) -> Tensor:
    """A square of waves along x in the middle of smooth noise."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    inside = place.abs() < width / 2
    wave = torch.sin(2 * math.pi * frequency * place) * (inside[:, None] & inside)
    return wave + 0.5 * smooth_noise(size, 10, seed=seed)


def detail_logits(image: Tensor, *, bound: float = 2.0, fwhm: float = 3.0) -> Tensor:
    """Logits (B, 1, H, W) in [-bound, bound] that follow what a blur by one pixel removes."""
    energy = (image - blur(image, 1.0)).square().sum(dim=1, keepdim=True)
    energy = blur(energy, max(1.0, fwhm / 6)).clamp(min=0)
    share = energy / energy.amax(dim=(1, 2, 3), keepdim=True)
    return bound * (2 * share.sqrt() - 1)
