"""DCNv3: numbers by hand and by loops, any sizes, its start, the names of its parameters."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import deformable_convolution as oracle

from freqfusion.layers.deformable_convolution import (
    DeformableConvolutionV3,
    deformable_convolution_v3,
)


def example(height=5, width=4, *, batch=2, size=3, groups=2, spread=1.5, **geometry):
    """Random arguments that fit together, and the geometry."""
    geometry = {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1, **geometry}
    pairs = zip(*(oracle.pair(geometry[name]) for name in geometry), strict=True)
    pixels = [
        (n + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
        for n, (taps, stride, padding, dilation) in zip((height, width), pairs, strict=True)
    ]
    taps = groups * math.prod(oracle.pair(geometry["kernel_size"]))
    value = torch.randn(batch, height, width, groups * size, dtype=torch.float64)
    offsets = spread * torch.randn(batch, *pixels, 2 * taps, dtype=torch.float64)
    weights = torch.randn(batch, *pixels, taps, dtype=torch.float64)
    return (value, offsets, weights), {**geometry, "groups": groups}


def test_taps_are_counted_column_by_column():
    """In 1 2 3 / 4 5 6 / 7 8 9, the second tap is left of the middle, the fourth above it."""
    value = torch.arange(1.0, 10).view(1, 3, 3, 1)
    for tap, expected in ((0, 1.0), (1, 4.0), (2, 7.0), (3, 2.0), (5, 8.0), (7, 6.0)):
        weights = F.one_hot(torch.tensor(tap), 9).float().expand(1, 3, 3, 9)
        offsets = torch.zeros(1, 3, 3, 18)
        out = deformable_convolution_v3(value, offsets, weights, kernel_size=3, padding=1)
        assert out[0, 1, 1, 0].item() == pytest.approx(expected)


def test_offsets_by_hand():
    """A row 1 2 4 8 seen by a kernel of one tap at its second pixel.

    A shift of (0.25, 0): 2 + 0.25 * 2 = 2.5. Twice as wide: 3. A shift of (0, 0.5) leaves half of
    the pixel in the map: 1. Weights count as they are: 10 times 2.5.
    """
    value = torch.tensor([1.0, 2, 4, 8]).view(1, 1, 4, 1)

    def at_second(shift, weight=1.0, **options):
        offsets = torch.tensor(shift).expand(1, 1, 4, 2)
        weights = torch.full((1, 1, 4, 1), weight)
        out = deformable_convolution_v3(value, offsets, weights, kernel_size=1, **options)
        return out[0, 0, 1, 0].item()

    assert at_second([0.25, 0.0]) == pytest.approx(2.5)
    assert at_second([0.25, 0.0], offset_scale=2.0) == pytest.approx(3.0)
    assert at_second([0.0, 0.5]) == pytest.approx(1.0)
    assert at_second([0.25, 0.0], weight=10.0) == pytest.approx(25.0)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    kernel_size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    extra=st.integers(0, 1),
    groups=st.integers(1, 3),
    size=st.integers(1, 3),
    offset_scale=st.sampled_from([0.5, 1.0, 2.0]),
    spread=st.sampled_from([0.3, 1.5, 10.0]),
)
def test_equals_plain_loops(
    height, width, kernel_size, dilation, extra, groups, size, offset_scale, **others
):
    inputs, geometry = example(
        height,
        width,
        batch=1,
        groups=groups,
        size=size,
        kernel_size=kernel_size,
        dilation=dilation,
        padding=dilation * (kernel_size // 2) + extra,
        **others,
    )
    geometry["offset_scale"] = offset_scale
    expected = oracle.loops(*(t.numpy() for t in inputs), **geometry)
    np.testing.assert_allclose(deformable_convolution_v3(*inputs, **geometry), expected, atol=1e-11)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation"),
    [
        (3, 1, 0, 1),
        (3, 2, 1, 1),
        (5, 1, 2, 1),
        (3, 2, 0, 2),
    ],
)
def test_without_offsets_it_is_a_depthwise_convolution(kernel_size, stride, padding, dilation):
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    (value, offsets, _), geometry = example(9, 7, groups=1, kernel_size=kernel_size, **options)
    kernel = torch.randn(kernel_size, kernel_size, dtype=torch.float64)
    expected = F.conv2d(
        value.permute(0, 3, 1, 2), kernel.expand(3, 1, -1, -1), groups=3, **options
    ).permute(0, 2, 3, 1)
    weights = kernel.T.flatten().expand(*offsets.shape[:3], -1)
    out = deformable_convolution_v3(value, torch.zeros_like(offsets), weights, **geometry)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel_size": 2},
        {"kernel_size": 4, "dilation": 2, "padding": 3, "stride": 2},
        {"kernel_size": (3, 5), "padding": (0, 2), "dilation": (2, 1)},
        {"kernel_size": (1, 2), "stride": (2, 1), "padding": (1, 0)},
    ],
    ids=str,
)
def test_kernels_of_other_shapes_equal_plain_loops(geometry):
    """Even ones, whose middle is rounded down, and other numbers for rows than for columns."""
    inputs, geometry = example(6, 7, **geometry)
    geometry["offset_scale"] = 1.5
    expected = oracle.loops(*(t.numpy() for t in inputs), **geometry)
    np.testing.assert_allclose(deformable_convolution_v3(*inputs, **geometry), expected, atol=1e-11)


def test_without_the_center_the_other_taps_move_up():
    (value, offsets, weights), geometry = example(kernel_size=(3, 5), padding=(1, 2))
    offsets = offsets.unflatten(-1, (2, 15, 2))[..., 1:, :].flatten(-3)
    weights = weights.unflatten(-1, (2, 15))[..., 1:].flatten(-2)
    geometry["remove_center"] = True
    expected = oracle.loops(*(t.numpy() for t in (value, offsets, weights)), **geometry)
    out = deformable_convolution_v3(value, offsets, weights, **geometry)
    np.testing.assert_allclose(out, expected, atol=1e-11)


# The module


def trained(dtype=torch.float64, **options):
    """A module whose offsets and weights are not those of the start."""
    torch.manual_seed(1)
    module = DeformableConvolutionV3(channels=8, groups=2, **options)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return module.to(dtype)


def plain_module(module, maps):
    """The module in numpy over its own parameters, by their published names."""
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    size = module.kernel_size
    reach = size // 2

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    around = np.zeros_like(maps) + weights["dw_conv.0.bias"]
    height, width = maps.shape[1:3]
    for row, column in np.ndindex(size, size):
        kernel = weights["dw_conv.0.weight"][:, 0, row, column]
        around += kernel * padded[:, row : row + height, column : column + width]
    mean, variance = around.mean(-1, keepdims=True), around.var(-1, keepdims=True)
    around = (around - mean) / np.sqrt(variance + 1e-6)
    around = around * weights["dw_conv.1.1.weight"] + weights["dw_conv.1.1.bias"]
    around = around * 0.5 * (1 + np.vectorize(math.erf)(around / math.sqrt(2)))
    logits = np.exp(linear("mask", around)).reshape(*maps.shape[:3], module.groups, -1)
    shares = (logits / logits.sum(-1, keepdims=True)).reshape(*maps.shape[:3], -1)
    out = oracle.loops(
        linear("input_proj", maps),
        linear("offset", around),
        shares,
        kernel_size=size,
        padding=reach,
        groups=module.groups,
        offset_scale=module.offset_scale,
    )
    return linear("output_proj", out)


@pytest.mark.parametrize(
    ("size", "options"), [((5, 4), {"kernel_size": 5, "offset_scale": 2.0}), ((1, 1), {})]
)
def test_module_equals_plain_loops(size, options):
    module = trained(**options)
    maps = torch.randn(2, *size, 8, dtype=torch.float64)
    np.testing.assert_allclose(
        module(maps).detach(), plain_module(module, maps.numpy()), atol=1e-10
    )


def test_at_the_start_it_is_a_mean_between_projections():
    module = DeformableConvolutionV3(channels=6, groups=3)
    maps = torch.randn(1, 4, 5, 6)
    projected = module.input_proj(maps).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(projected, 3, stride=1, padding=1, count_include_pad=True)
    expected = module.output_proj(mean.permute(0, 2, 3, 1))
    torch.testing.assert_close(module(maps), expected)


def test_the_share_of_the_map_itself():
    """All of it leaves the projections alone; half of it is the start."""
    module, maps = trained(center_feature_scale=True), torch.randn(2, 4, 5, 8, dtype=torch.float64)
    torch.nn.init.zeros_(module.center_feature_scale_proj_weight)
    torch.nn.init.constant_(module.center_feature_scale_proj_bias, 100.0)
    torch.testing.assert_close(module(maps), module.output_proj(module.input_proj(maps)))
    alone = trained()
    torch.nn.init.zeros_(module.center_feature_scale_proj_bias)
    module.load_state_dict(alone.state_dict(), strict=False)
    projected = alone.output_proj(alone.input_proj(maps))
    torch.testing.assert_close(module(maps), (alone(maps) + projected) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depthwise_kernel": 4}, "depthwise_kernel must be a positive odd number, .*got 4"),
        ({"norm": "GN"}, r"norm must be one of \('LN', 'BN'\), got 'GN'"),
        ({"activation": "Tanh"}, "activation must be one of .* got 'Tanh'"),
    ],
)
def test_arguments_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeformableConvolutionV3(channels=8, groups=2, **options)


def test_published_names_and_shapes():
    shapes = {n: tuple(p.shape) for n, p in trained(kernel_size=5).state_dict().items()}
    assert shapes == {
        "dw_conv.0.weight": (8, 1, 5, 5),
        "dw_conv.0.bias": (8,),
        "dw_conv.1.1.weight": (8,),
        "dw_conv.1.1.bias": (8,),
        "offset.weight": (100, 8),
        "offset.bias": (100,),
        "mask.weight": (50, 8),
        "mask.bias": (50,),
        "input_proj.weight": (8, 8),
        "input_proj.bias": (8,),
        "output_proj.weight": (8, 8),
        "output_proj.bias": (8,),
    }


@pytest.mark.gpu
def test_on_a_gpu():
    exact, maps = trained(), torch.randn(2, 33, 29, 8, dtype=torch.float64)
    module = trained(torch.float32).cuda()
    out = module(maps.cuda().float())
    torch.testing.assert_close(out.cpu().double(), exact(maps), atol=1e-3, rtol=1e-3)
    for loss in (out, exact(maps)):
        loss.square().mean().backward()
    for ours, theirs in zip(module.parameters(), exact.parameters(), strict=True):
        wanted = theirs.grad
        assert (ours.grad.cpu() - wanted).abs().max() <= 2e-3 * wanted.abs().max() + 1e-6
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            assert module(maps.cuda().float()).isfinite().all()
