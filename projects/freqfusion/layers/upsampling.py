"""Plainer ways to bring a coarse map to the size of a fine one, with FreqFusion's interface.

They are the baselines that FreqFusion is compared with, and return ``(None, hr_feat, upsampled)``.
Shapes: hr_feat (B, Ch, Ho, Wo), lr_feat (B, Cl, H, W), upsampled (B, Cl, Ho, Wo), any sizes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice, check_map, check_odd, check_positive
from freqfusion.layers.convolution import PointwiseConv2d, zero_bias
from freqfusion.layers.reassembly import (
    CENTER_WEIGHT,
    PaddingMode,
    favor_center,
    normalize_kernels,
    reassemble,
)
from freqfusion.layers.sampler import FusionInit
from freqfusion.layers.sampling import resize_nearest, sample_at_offsets

InterpolationMode = Literal["nearest", "bilinear"]

# Both operators predict for the 2 x 2 output pixels of a coarse pixel.
_SCALE = 2


class InterpolationUpsampling(nn.Module):
    """Nearest or bilinear interpolation: nothing to learn."""

    def __init__(self, *, mode: InterpolationMode = "nearest"):
        super().__init__()
        check_choice(InterpolationMode, mode=mode)
        self.mode = mode

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[None, Tensor, Tensor]:
        """Upsample ``lr_feat``; ``hr_feat`` gives the size and is returned as it came."""
        check_map("hr_feat", hr_feat)
        check_map("lr_feat", lr_feat)
        size = (hr_feat.shape[-2], hr_feat.shape[-1])
        if self.mode == "nearest":
            return None, hr_feat, resize_nearest(lr_feat, size)
        return None, hr_feat, F.interpolate(lr_feat, size, mode="bilinear", align_corners=False)


class CarafeUpsampling(nn.Module):
    """Reassembly with kernels predicted from the coarse map alone (Wang et al., ICCV 2019).

    ``init`` is that of :class:`~freqfusion.layers.FreqFusion`: uniform kernels at the start, or
    nearest upsampling.
    """

    def __init__(
        self,
        *,
        lr_channels: int,
        compressed_channels: int = 64,
        kernel_size: int = 5,
        encoder_kernel: int = 3,
        padding_mode: PaddingMode = "zeros",
        init: FusionInit = "published",
    ):
        super().__init__()
        check_choice(FusionInit, init=init)
        check_positive(lr_channels=lr_channels, compressed_channels=compressed_channels)
        check_odd(kernel_size=kernel_size, encoder_kernel=encoder_kernel)
        check_choice(PaddingMode, padding_mode=padding_mode)
        self.kernel_size = kernel_size
        self.padding_mode: PaddingMode = padding_mode
        self.compressor = PointwiseConv2d(lr_channels, compressed_channels)
        self.generator = nn.Conv2d(
            compressed_channels,
            (kernel_size * _SCALE) ** 2,
            encoder_kernel,
            padding=encoder_kernel // 2,
        )
        nn.init.xavier_uniform_(self.compressor.weight)
        nn.init.normal_(self.generator.weight, std=0.001)
        for layer in (self.compressor, self.generator):
            zero_bias(layer)
        if init == "identity":
            start = torch.empty(kernel_size**2)
            favor_center(start, kernel_size**2, CENTER_WEIGHT)
            with torch.no_grad():
                assert self.generator.bias is not None
                self.generator.bias.copy_(start.repeat_interleave(_SCALE**2))

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[None, Tensor, Tensor]:
        """Upsample ``lr_feat``; ``hr_feat`` gives the size and is returned as it came."""
        check_map("hr_feat", hr_feat)
        size = (hr_feat.shape[-2], hr_feat.shape[-1])
        kernels = self.predict_kernels(lr_feat, size)
        upsampled = reassemble(
            lr_feat,
            kernels,
            kernel_size=self.kernel_size,
            scale=_SCALE,
            padding_mode=self.padding_mode,
            out_size=size,
        )
        return None, hr_feat, upsampled

    def predict_kernels(self, lr_feat: Tensor, size: tuple[int, int]) -> Tensor:
        """Kernels (B, kernel_size ** 2, Ho, Wo) for an output of this size."""
        layer = self.compressor
        check_map("lr_feat", lr_feat, layer.in_channels, like=layer.weight)
        logits = F.pixel_shuffle(self.generator(layer(lr_feat)), _SCALE)
        return normalize_kernels(resize_nearest(logits, size))


class DySampleUpsampling(nn.Module):
    """Bilinear sampling at predicted places (Liu et al., DySample, ICCV 2023).

    The form with offsets of a fixed scope, a quarter of a coarse pixel per unit, predicted by a
    1 x 1 convolution of the coarse map.
    """

    def __init__(self, *, lr_channels: int, groups: int = 4, scope: float = 0.25):
        super().__init__()
        check_positive(lr_channels=lr_channels, groups=groups)
        if lr_channels % groups:
            raise ValueError(
                f"groups must divide lr_channels, got {groups} groups for {lr_channels} channels"
            )
        self.groups, self.scope = groups, scope
        self.offset = nn.Conv2d(lr_channels, 2 * groups * _SCALE**2, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        zero_bias(self.offset)

    def forward(self, hr_feat: Tensor, lr_feat: Tensor) -> tuple[None, Tensor, Tensor]:
        """Upsample ``lr_feat``; ``hr_feat`` gives the size and is returned as it came."""
        check_map("hr_feat", hr_feat)
        offsets = self.predict_offsets(lr_feat, (hr_feat.shape[-2], hr_feat.shape[-1]))
        return None, hr_feat, sample_at_offsets(lr_feat, offsets)

    def predict_offsets(self, lr_feat: Tensor, size: tuple[int, int]) -> Tensor:
        """Offsets in output pixels, (B, 2, groups, Ho, Wo), for an output of this size."""
        check_map("lr_feat", lr_feat, self.offset.in_channels, like=self.offset.weight)
        coarse_pixels = self.scope * F.pixel_shuffle(self.offset(lr_feat), _SCALE)
        offsets = _SCALE * resize_nearest(coarse_pixels, size)
        grouped: Tensor = offsets.unflatten(1, (2, self.groups))
        return grouped
