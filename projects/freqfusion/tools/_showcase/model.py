"""A small encoder-decoder whose only variable part is how a coarse map joins a finer one.

Shapes: images (B, 3, H, W) in 0..1, logits (B, classes, H, W).
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers import FreqFusion, InterpolationUpsampling

_ENCODER_WIDTHS = (24, 32, 48, 64)
_WIDTH = 32


def _bilinear() -> nn.Module:
    return InterpolationUpsampling(mode="bilinear")


def _freqfusion() -> nn.Module:
    return FreqFusion(
        hr_channels=_WIDTH,
        lr_channels=_WIDTH,
        compressed_channels=16,
        feature_resample=True,
        init="identity",
    )


FUSIONS: dict[str, Callable[[], nn.Module]] = {
    "bilinear + add": _bilinear,
    "FreqFusion": _freqfusion,
}


class EncoderDecoder(nn.Module):
    """Four strided stages, and a top-down path that ends at half the image size."""

    def __init__(self, num_classes: int):
        super().__init__()
        widths = (3, *_ENCODER_WIDTHS)
        self.stages = nn.ModuleList(
            nn.Sequential(*_block(before, after, 2), *_block(after, after, 1))
            for before, after in itertools.pairwise(widths)
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, _WIDTH, 1) for width in _ENCODER_WIDTHS)
        self.fusions = nn.ModuleList()
        self.head = nn.Sequential(*_block(_WIDTH, _WIDTH, 1), nn.Conv2d(_WIDTH, num_classes, 1))

    def fused(self, images: Tensor) -> Tensor:
        """The map at half the image size in which all levels are joined."""
        maps = []
        image = images - 0.5
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            image = stage(image)
            maps.append(lateral(image))
        joined: Tensor = maps.pop()
        for fusion, fine in zip(self.fusions, reversed(maps), strict=True):
            _, fine, coarse = fusion(hr_feat=fine, lr_feat=joined)
            joined = fine + coarse
        return joined

    def forward(self, images: Tensor) -> Tensor:
        """Logits at the size of the images."""
        size = (images.shape[-2], images.shape[-1])
        return F.interpolate(self.head(self.fused(images)), size=size, mode="bilinear")


def build_model(fusion: str, num_classes: int, seed: int) -> EncoderDecoder:
    """A network that shares every initial weight outside its fusions with the others of a seed."""
    torch.manual_seed(seed)
    model = EncoderDecoder(num_classes)
    model.fusions.extend(FUSIONS[fusion]() for _ in _ENCODER_WIDTHS[1:])
    return model


def _block(before: int, after: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)
