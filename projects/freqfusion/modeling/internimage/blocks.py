"""The parts of InternImage, on maps with channels last; parameters have the published names.

Shapes: maps (B, H, W, C) of any size.

Wang et al., InternImage: Exploring Large-Scale Vision Foundation Models with Deformable
Convolutions, CVPR 2023, section 3.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqfusion.layers.deformable_convolution import (
    EPSILON,
    ChannelsLast,
    DeformableConvolutionV3,
)
from freqfusion.modeling.stochastic_depth import leave_out
from freqfusion.modeling.swin.blocks import Perceptron


class ChannelsFirst(nn.Module):
    """(B, H, W, C) to (B, C, H, W)."""

    def forward(self, maps: Tensor) -> Tensor:
        """A view."""
        return maps.permute(0, 3, 1, 2)


class Stem(nn.Module):
    """Two convolutions of stride 2: images to the map of the first stage, a quarter in size."""

    def __init__(self, *, in_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, half, 3, stride=2, padding=1)
        norm = nn.LayerNorm(half, eps=EPSILON)
        self.norm1 = nn.Sequential(ChannelsLast(), norm, ChannelsFirst())
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(half, channels, 3, stride=2, padding=1)
        self.norm2 = nn.Sequential(ChannelsLast(), nn.LayerNorm(channels, eps=EPSILON))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to a map (B, ceil(H / 4), ceil(W / 4), C)."""
        maps: Tensor = self.norm2(self.conv2(self.act(self.norm1(self.conv1(images)))))
        return maps


class Downsampling(nn.Module):
    """A convolution of stride 2 to twice the channels, normalised."""

    def __init__(self, *, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(ChannelsLast(), nn.LayerNorm(2 * channels, eps=EPSILON))

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C)."""
        smaller: Tensor = self.norm(self.conv(maps.permute(0, 3, 1, 2)))
        return smaller


class InternImageBlock(nn.Module):
    """A deformable convolution and a perceptron, each added to what came in.

    Args:
        channels: Of the maps.
        groups: Of the convolution, must divide the channels.
        mlp_ratio: Width of the perceptron, in channels.
        drop_path_rate: How often, in training, an image goes without a branch.
        layer_scale: Where the learned factors of both branches start; 0 leaves them out.
        post_norm: Normalise what a branch gives instead of what it gets.
        offset_scale: Widens the offsets and kernels of the convolution.
    """

    def __init__(
        self,
        *,
        channels: int,
        groups: int,
        mlp_ratio: float,
        drop_path_rate: float,
        layer_scale: float,
        post_norm: bool,
        offset_scale: float,
    ):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.post_norm = post_norm
        self.norm1 = layer_norm(channels)
        self.dcn = DeformableConvolutionV3(
            channels=channels, groups=groups, offset_scale=offset_scale
        )
        self.norm2 = layer_norm(channels)
        self.mlp = Perceptron(channels=channels, hidden=int(channels * mlp_ratio))
        self.gamma1 = _factors(channels, layer_scale)
        self.gamma2 = _factors(channels, layer_scale)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape."""
        maps = maps + self._branch(maps, self.dcn, self.norm1, self.gamma1)
        return maps + self._branch(maps, self.mlp, self.norm2, self.gamma2)

    def _branch(
        self, maps: Tensor, work: nn.Module, norm: nn.Module, factors: Tensor | None
    ) -> Tensor:
        branch: Tensor = norm(work(maps)) if self.post_norm else work(norm(maps))
        if factors is not None:
            branch = branch * factors
        return leave_out(branch, self.drop_path_rate) if self.training else branch


class InternImageStage(nn.Module):
    """The blocks at one resolution, and the step to the next, which the caller takes.

    Without ``post_norm`` in the blocks, nothing has normalised their sum: then the stage does.
    """

    def __init__(
        self,
        *,
        channels: int,
        groups: int,
        mlp_ratio: float,
        drop_path_rates: Sequence[float],
        layer_scale: float,
        post_norm: bool,
        offset_scale: float,
        downsample: bool,
        use_checkpoint: bool,
    ):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            InternImageBlock(
                channels=channels,
                groups=groups,
                mlp_ratio=mlp_ratio,
                drop_path_rate=rate,
                layer_scale=layer_scale,
                post_norm=post_norm,
                offset_scale=offset_scale,
            )
            for rate in drop_path_rates
        )
        self.norm = None if post_norm else layer_norm(channels)
        self.downsample = Downsampling(channels=channels) if downsample else None

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape, before the step to the next stage."""
        for block in self.blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                maps = checkpoint(block, maps, use_reentrant=False)
            else:
                maps = block(maps)
        return maps if self.norm is None else self.norm(maps)


def _factors(channels: int, start: float) -> nn.Parameter | None:
    return nn.Parameter(torch.full((channels,), float(start))) if start else None


def layer_norm(channels: int) -> nn.Sequential:
    """A normalisation of each pixel; published names have a number for it (``norm1.0``)."""
    return nn.Sequential(nn.LayerNorm(channels, eps=EPSILON))
