"""Convolutions without work that torch's own repeats, and their start."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with a 1 x 1 kernel and a bias.

    On a CPU, torch's convolution first rearranges an image into blocks or columns of channels; with
    a single tap that costs more than the product itself, which takes half the time forward and
    backward. Everywhere else this is the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Mix the channels of every pixel."""
        if input.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(input)
        if not input.is_contiguous():
            pixels = input.permute(0, 2, 3, 1)
            if not pixels.is_contiguous():
                return super().forward(input)
            return F.linear(pixels, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        pixels = input.flatten(2)
        assert self.bias is not None
        weight = self.weight.flatten(1).expand(pixels.shape[0], -1, -1)
        output: Tensor = torch.baddbmm(self.bias[:, None], weight, pixels)
        return output.view(*output.shape[:2], *input.shape[-2:])


def convolve_together(layers: Sequence[nn.Conv2d], image: Tensor) -> Tensor:
    """Concatenate what layers of the same geometry make of one image, reading it only once."""
    if len(layers) == 1:
        output: Tensor = layers[0](image)
        return output
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
    first = layers[0]
    return F.conv2d(image, weight, bias, first.stride, first.padding, first.dilation)


def zero_bias(layer: nn.Conv2d) -> None:
    """Start a convolution that has a bias with one of zero."""
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
