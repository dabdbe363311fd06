"""How predicted kernels treat frequencies, pixel by pixel.

A kernel K that sums to one lets through ``|K(f)|`` of a wave of frequency f (cycles per sample of
the map it reads, up to 0.5). What is taken from the fine map is ``1 - K``, and with the map itself
``2 - K`` (FreqFusion, TPAMI 2024, sections 3.2 and 3.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.analysis.running import RunningMean
from freqfusion.layers.checks import check_choice, check_positive

Filter = Literal["smoothing", "detail", "sharpening"]
# What a filter keeps of the map itself, and the sign of the kernel in it.
_PARTS = {"smoothing": (0.0, 1.0), "detail": (1.0, -1.0), "sharpening": (2.0, -1.0)}
_HIGHEST = 0.5
# Pixels at a time: some ten megabytes in between.
_CHUNK = 1 << 14


@dataclass(frozen=True)
class Response:
    """Mean and standard deviation over all pixels (frequencies,), and the mean map at the highest.

    ``map`` is (rows, columns) over the image, whatever its size was.
    """

    frequencies: Tensor
    mean: Tensor
    deviation: Tensor
    map: Tensor
    images: int


def kernel_response(
    kernels: Tensor, frequencies: Tensor, *, filter: Filter = "smoothing", directions: int = 8
) -> Tensor:
    """Magnitude of the response of every pixel's kernel, mean over directions.

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
    share, sign = _PARTS[filter]
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
        grid: Rows and columns of the mean map.
    """

    def __init__(
        self, *, filter: Filter = "smoothing", steps: int = 17, grid: tuple[int, int] = (24, 32)
    ) -> None:
        check_choice(Filter, filter=filter)
        check_positive(steps=steps)
        self._filter, self._grid = filter, grid
        self.frequencies = torch.linspace(0, _HIGHEST, steps, dtype=torch.float64)
        self._sums = torch.zeros(2, steps, dtype=torch.float64)
        self._pixels = self._images = 0
        self._map = RunningMean()

    def update(self, kernels: Tensor) -> None:
        """Take the kernels (B, k * k, H, W) of one or more images; B, H and W may differ."""
        response = kernel_response(kernels.detach(), self.frequencies, filter=self._filter)
        moments = torch.stack([response.double(), response.double().square()])
        self._sums += moments.sum(dim=(1, 3, 4)).cpu()
        batch, _, height, width = kernels.shape
        self._pixels += batch * height * width
        self._images += batch
        for one in F.adaptive_avg_pool2d(response[:, -1], self._grid):
            self._map.update(one)

    def result(self) -> Response:
        """The average so far.

        Raises:
            ValueError: if there were no kernels.
        """
        if not self._pixels:
            raise ValueError("there is no response of no kernel; call update with kernels")
        mean, square = self._sums / self._pixels
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        return Response(self.frequencies, mean, deviation, self._map.mean, self._images)


def _waves(width: int, frequencies: Tensor, directions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (F * directions, width ** 2) of each frequency at every tap."""
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
