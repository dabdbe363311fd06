"""Adaptive resampling: spend samples where the detail is, before a strided layer drops some.

Chen, Fu, Gu, Zheng, Dai: Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025. A
stretched signal has lower frequencies, so a strided layer aliases less of it; the stretch is
undone after the network. Shapes: features (B, C, H, W), displacements (B, 2, H, W) in pixels.

Samples move towards what is attended to, by the centroid form of Recasens et al., Learning to Zoom,
ECCV 2018, written as a displacement (our design): exactly zero where the attention is even, without
the cancellation of two large coordinates. It equals sigma^2 times the gradient of the log of the
smoothed attention, so that the mapping m + d(m) is the gradient of a convex function and cannot
fold between the lattice's nodes.
"""

import math

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice, check_floating, check_map, check_positive
from freqfusion.layers.reassembly import mirror
from freqfusion.layers.sampling import ResampleMode, lattice_points, sample_at, wide_dtype
from freqfusion.layers.sfm.attention import SemanticHighFreqAttention
from freqfusion.layers.sfm.mapping import Mapping, normalized_shift

# Full width at half maximum of a Gaussian, in standard deviations: 2 sqrt(2 ln 2).
_FWHM = 2.354820045
# A window that weighs less than the smallest number to this power is left alone: its quotient and
# the gradients of it would leave the range of the dtype. About 1e-30 in float32.
_EMPTY_WINDOW = 0.8


class AdaptiveResampling(nn.Module):
    """Resample a feature map, at its own size, more densely where an attention map is high.

    It does not downsample; it is put before a layer that does, and returns what is needed to undo
    it. With the default attention the start is the identity.

    Args:
        channels: C of the features.
        fwhm: Full width at half maximum of the Gaussian that draws samples, in pixels.
        radius: Reach of the Gaussian in pixels.
        strength: In [0, 1], multiplies the displacement; the attribute may be changed during
            training. 0 switches the modulation off.
        detach_grid: Let no gradient of the samples reach the attention, so that its supervision is
            its only teacher.
        align_corners: Meaning of normalised points, as in ``grid_sample``; for the mapping's users.
        attention: Features to logits (B, 1, H, W); by default ``SemanticHighFreqAttention``. The
            logits should lie within [-2, 2]: wider ranges can fold the lattice.
    """

    def __init__(
        self,
        *,
        channels: int,
        fwhm: float = 3.0,
        radius: int = 5,
        strength: float = 1.0,
        detach_grid: bool = False,
        align_corners: bool = False,
        attention: nn.Module | None = None,
    ):
        super().__init__()
        check_positive(channels=channels, radius=radius)
        if not fwhm > 0:
            raise ValueError(f"fwhm must be positive, got {fwhm}")
        if not 0 <= strength <= 1:
            raise ValueError(
                f"strength must lie in [0, 1], since a stronger displacement can fold the lattice; "
                f"got {strength}"
            )
        self.fwhm, self.radius, self.strength = fwhm, radius, strength
        self.detach_grid, self.align_corners = detach_grid, align_corners
        self.attention = attention or SemanticHighFreqAttention(channels=channels)

    def forward(
        self,
        features: Tensor,
        stride: int = 2,
        phase: float = 0.5,
        out_size: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Mapping, Tensor]:
        """Resample features of any size.

        Args:
            features: (B, C, H, W).
            stride: Stride of the layer that follows.
            phase: Its phase, see :class:`~freqfusion.layers.sfm.mapping.Mapping`.
            out_size: Height and width that it makes; by default those of a convolution with this
                stride and phase, at least 1.

        Returns:
            The resampled features, their mapping, and the attention's logits (B, 1, H, W).
        """
        check_map("features", features)
        logits: Tensor = self.attention(features)
        displacement = self.strength * saliency_to_displacement(
            spatial_softmax(logits), fwhm=self.fwhm, radius=self.radius
        )
        if self.detach_grid:
            displacement = displacement.detach()
        if out_size is None:
            height, width = features.shape[-2:]
            out_size = downsampled(height, stride, phase), downsampled(width, stride, phase)
        mapping = Mapping(displacement, self.align_corners, stride, phase, out_size)
        return modulate(features, displacement, align_corners=self.align_corners), mapping, logits


def modulate(
    features: Tensor,
    displacement: Tensor,
    *,
    align_corners: bool = False,
    mode: ResampleMode = "bilinear",
) -> Tensor:
    """Read features (B, C, H, W) at each pixel's place plus its displacement (B, 2, H, W).

    The border is repeated. Features are interpolated in float32 or better and returned in their
    own dtype. ``align_corners`` changes nothing but rounding. Note that ``"bilinear"`` is itself a
    low-pass filter: to measure aliasing, take ``"bicubic"``.
    """
    check_choice(ResampleMode, mode=mode)
    check_map("features", features)
    check_floating(displacement=displacement)
    size = (features.shape[-2], features.shape[-1])
    expected = (features.shape[0], 2, *size)
    if tuple(displacement.shape) != expected:
        raise ValueError(
            f"displacement must be {expected} for features {tuple(features.shape)}, "
            f"got {tuple(displacement.shape)}"
        )
    dtype = wide_dtype(features, displacement)
    points = lattice_points(size, align_corners, dtype=dtype, device=features.device)
    grid = points + normalized_shift(displacement.to(dtype), size, align_corners)
    sampled = sample_at(
        features, grid, mode=mode, padding_mode="border", align_corners=align_corners
    )
    return sampled.to(features.dtype)


def spatial_softmax(logits: Tensor) -> Tensor:
    """Turn logits (B, 1, H, W) into attention of mean one, in float32 or better."""
    pixels = logits.shape[-2] * logits.shape[-1]
    return logits.to(wide_dtype(logits)).flatten(1).softmax(dim=1).view(logits.shape) * pixels


def downsampled(size: int, stride: int, phase: float) -> int:
    """Return the length that a strided convolution of this phase makes of ``size``."""
    check_positive(stride=stride)
    return max((size - 1 - math.ceil(2 * phase)) // stride + 1, 1)


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
    saliency = saliency.to(wide_dtype(saliency))
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
    """Return what lies 1, 2, ... ``radius`` before each inner place, at it, and after it."""
    size = image.shape[dim] - 2 * radius
    before = [image.narrow(dim, radius - tap, size) for tap in range(1, radius + 1)]
    after = [image.narrow(dim, radius + tap, size) for tap in range(1, radius + 1)]
    return before, image.narrow(dim, radius, size), after
