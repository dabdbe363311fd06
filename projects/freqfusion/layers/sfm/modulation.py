"""Adaptive resampling: spend samples where the detail is, before a strided layer drops some.

Chen, Fu, Gu, Zheng, Dai: Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025. A
stretched signal has lower frequencies, so a strided layer aliases less of it; the stretch is
undone after the network. Shapes: features (B, C, H, W), displacements (B, 2, H, W) in pixels.
"""

import math

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice, check_floating, check_map, check_positive
from freqfusion.layers.sampling import ResampleMode, sample_at
from freqfusion.layers.sfm.attention import SemanticHighFreqAttention
from freqfusion.layers.sfm.coordinates import lattice_points
from freqfusion.layers.sfm.displacement import saliency_to_displacement
from freqfusion.layers.sfm.mapping import Mapping, normalized_shift


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
    dtype = torch.promote_types(features.dtype, displacement.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    points = lattice_points(size, align_corners, dtype=dtype, device=features.device)
    grid = points + normalized_shift(displacement.to(dtype), size, align_corners)
    sampled = sample_at(
        features, grid, mode=mode, padding_mode="border", align_corners=align_corners
    )
    return sampled.to(features.dtype)


def spatial_softmax(logits: Tensor) -> Tensor:
    """Attention of mean one from logits (B, 1, H, W), in float32 or better."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    pixels = logits.shape[-2] * logits.shape[-1]
    return logits.to(dtype).flatten(1).softmax(dim=1).view(logits.shape) * pixels


def downsampled(size: int, stride: int, phase: float) -> int:
    """Length that a strided convolution makes of ``size``; its padding follows from the phase."""
    check_positive(stride=stride)
    return max((size - 1 - math.ceil(2 * phase)) // stride + 1, 1)
