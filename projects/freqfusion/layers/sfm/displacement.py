"""Attention to displacement: samples move towards what is attended to.

The centroid form of Recasens et al., Learning to Zoom, ECCV 2018, written as a displacement (our
design): exactly zero where the attention is even, without the cancellation of two large
coordinates. It equals sigma^2 times the gradient of the log of the smoothed attention, so that the
mapping m + d(m) is the gradient of a convex function and cannot fold between the lattice's nodes.
"""

import math

import torch
from torch import Tensor

from freqfusion.layers.checks import check_map, check_positive

# Full width at half maximum of a Gaussian, in standard deviations: 2 sqrt(2 ln 2).
_FWHM = 2.354820045
# A window that weighs less than the smallest number to this power is left alone: its quotient and
# the gradients of it would leave the range of the dtype. About 1e-30 in float32.
_EMPTY_WINDOW = 0.8


def saliency_to_displacement(saliency: Tensor, *, fwhm: float = 3.0, radius: int = 5) -> Tensor:
    """Move each node to the centroid of the attention around it, weighted by a Gaussian.

    Beyond the border the attention is mirrored without repeating the edge. A border node then sees
    the same on both sides, stays on its border exactly, and no node leaves the map. Along each axis
    the nodes keep their order, whatever the attention.

    Args:
        saliency: (B, 1, H, W), not negative, of any size from 1 x 1; only ratios within a window
            matter. Attention of mean one uses the range of its dtype best: where a window weighs
            less than 1e-30 (in float32), the node stays.
        fwhm: Full width at half maximum of the Gaussian, in pixels. Ridges of the attention of
            about this width are magnified.
        radius: Reach of the window in pixels, which bounds the displacement in x and in y. Take
            3.5 standard deviations (1.5 ``fwhm``) or more: a narrower window is no Gaussian any
            more, and strong attention may fold the lattice.

    Returns:
        (B, 2, H, W), x then y, in pixels; float32, or float64 where ``saliency`` is.

    Raises:
        ValueError: if the attention has another shape, or a number is not positive.
    """
    check_positive(radius=radius)
    if not fwhm > 0:
        raise ValueError(f"fwhm must be positive, got {fwhm}")
    check_map("saliency", saliency, 1)
    saliency = saliency.to(torch.promote_types(saliency.dtype, torch.float32))
    kernel = [math.exp(-0.5 * (tap * _FWHM / fwhm) ** 2) for tap in range(radius + 1)]
    rows = mirror(saliency, radius, dim=2)
    weight = mirror(_smooth(rows, kernel, dim=2), radius, dim=3)
    total = _smooth(weight, kernel, dim=3)
    across = _moment(weight, kernel, dim=3)
    down = _smooth(mirror(_moment(rows, kernel, dim=2), radius, dim=3), kernel, dim=3)
    moments = torch.cat([across, down], dim=1)
    is_empty = total < torch.finfo(total.dtype).tiny ** _EMPTY_WINDOW
    # What is left of the moments of an empty window is as good as zero.
    displacement = moments / total.masked_fill(is_empty, 1)
    return displacement.clamp(-radius, radius)


def mirror(image: Tensor, radius: int, dim: int) -> Tensor:
    """Continue an axis on both sides by its mirror image, the border itself not repeated.

    Unlike ``torch.nn.functional.pad`` this works for axes shorter than ``radius``, which are
    mirrored again and again.
    """
    size = image.shape[dim]
    period = max(2 * size - 2, 1)
    index = torch.arange(-radius, size + radius, device=image.device)
    index = index - index // period * period  # exporters know no remainder of a dynamic number
    return image.index_select(dim, torch.minimum(index, period - index))


def _smooth(image: Tensor, kernel: list[float], dim: int) -> Tensor:
    """Correlate one axis with the symmetric kernel whose taps from its centre on are ``kernel``.

    Both 1-D convolutions add pairs of taps instead of calling ``conv2d``: faster for one channel,
    never rounded to TF32, and symmetric to the last bit, which keeps border nodes in their place.
    """
    before, centre, after = _around(image, len(kernel) - 1, dim)
    total = centre * kernel[0]
    for weight, left, right in zip(kernel[1:], before, after, strict=True):
        total = torch.add(total, left + right, alpha=weight)
    return total


def _moment(image: Tensor, kernel: list[float], dim: int) -> Tensor:
    """Correlate one axis with ``tap * kernel[|tap|]``."""
    before, centre, after = _around(image, len(kernel) - 1, dim)
    total = torch.zeros_like(centre)
    for tap, (left, right) in enumerate(zip(before, after, strict=True), start=1):
        total = torch.add(total, right - left, alpha=tap * kernel[tap])
    return total


def _around(image: Tensor, radius: int, dim: int) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """What lies 1, 2, ... ``radius`` before each inner place, at it, and after it."""
    size = image.shape[dim] - 2 * radius
    before = [image.narrow(dim, radius - tap, size) for tap in range(1, radius + 1)]
    after = [image.narrow(dim, radius + tap, size) for tap in range(1, radius + 1)]
    return before, image.narrow(dim, radius, size), after
