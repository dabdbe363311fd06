"""Convolutions that skip work give what torch's own give."""

import pytest
import torch
from torch import nn

from freqfusion.layers.convolution import PointwiseConv2d, convolve_together


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (1, 6, 1, 1), (0, 6, 4, 4)])
def test_pointwise_equals_convolution(shape, memory_format):
    ours = PointwiseConv2d(6, 4).double()
    theirs = nn.Conv2d(6, 4, 1).double()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(shape).double().to(memory_format=memory_format).requires_grad_()
    actual, expected = ours(image), theirs(image)
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(expected)
    for a, b in zip(
        torch.autograd.grad(actual, (image, *ours.parameters()), weight),
        torch.autograd.grad(expected, (image, *theirs.parameters()), weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dilation", [1, 2])
def test_together_equals_one_after_the_other(dilation):
    layers = [nn.Conv2d(3, out, 3, padding=dilation, dilation=dilation).double() for out in (2, 5)]
    image = torch.randn(2, 3, 6, 7).double()
    expected = torch.cat([layer(image) for layer in layers], dim=1)
    torch.testing.assert_close(convolve_together(layers, image), expected)
    torch.testing.assert_close(convolve_together(layers[:1], image), layers[0](image))
