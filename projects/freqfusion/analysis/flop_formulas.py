"""How many multiply-adds an operator does, from the shapes of its arguments.

A multiply-add counts once. A formula is given the arguments by their names in the operator's schema
and the output. What is counted are products and weighted sums: matrix products, convolutions,
attention, reassembly and local similarity, and interpolation, which adds up as many pixels with
weights as it reads. Bilinear samples read four and bicubic ones sixteen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Arguments = Mapping[str, Any]
Formula = Callable[[Arguments, Tensor], int]

_BILINEAR, _BICUBIC = 4, 16
# ``interpolation_mode`` of the grid samplers, as torch numbers it, to the pixels that are read.
_READ_BY_MODE = {0: _BILINEAR, 1: 0, 2: _BICUBIC}


def matrix_product(first: str) -> Formula:
    """(..., n, k) times (..., k, m) or (k,): each output value is a sum of k products."""

    def formula(arguments: Arguments, output: Tensor) -> int:
        left: Tensor = arguments[first]
        return output.numel() * left.shape[-1]

    return formula


def convolution(arguments: Arguments, output: Tensor) -> int:
    """Each output value sums over its kernel; transposed, each input value is spread by it.

    A weight has the shape (out, in / groups, ...), transposed (in, out / groups, ...), so that both
    are the values at hand times the rest of the weight.
    """
    weight: Tensor = arguments["weight"]
    image: Tensor = arguments["input"] if arguments["transposed"] else output
    return image.numel() * math.prod(weight.shape[1:])


def attention(arguments: Arguments, output: Tensor) -> int:
    """Products of queries with keys and of weights with values; masks leave nothing out."""
    query: Tensor = arguments["query"]
    key: Tensor = arguments["key"]
    value: Tensor = arguments["value"]
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def gather(arguments: Arguments, output: Tensor) -> int:
    """Reassembly (B, C, Ho, Wo) with k * k taps: B * C * Ho * Wo * k * k."""
    return output.numel() * _taps(arguments)


def spread(arguments: Arguments, output: Tensor) -> int:
    """The adjoint of reassembly, and local similarity: k * k products for each of ``values``."""
    values: Tensor = arguments["values"]
    return values.numel() * _taps(arguments)


def spread_twice(arguments: Arguments, output: Any) -> int:
    """Both derivatives of reassembly at once."""
    return 2 * spread(arguments, output)


def _taps(arguments: Arguments) -> int:
    kernel_size: int = arguments["geometry"][0]
    return kernel_size * kernel_size


def deformable_attention(arguments: Arguments, output: Tensor) -> int:
    """(B, Q, heads * D) from P points on each of L levels: B * Q * heads * D * L * P * 4.

    The weight of a sample is multiplied into those of its four corners before channels come into
    play. (Where it is counted apart, as by Zhu et al., the four is a five.)
    """
    weights: Tensor = arguments["weights"]
    return _BILINEAR * output.numel() * math.prod(weights.shape[3:])


def deformops_attention(arguments: Arguments, output: Tensor) -> int:
    """The same by deformops, whose operators all take locations (B, Q, heads, L, P, 2) fourth."""
    locations: Tensor = list(arguments.values())[3]
    return _BILINEAR * output.numel() * math.prod(locations.shape[3:5])


def grid_sample(arguments: Arguments, output: Tensor) -> int:
    """Weighted sums of the pixels around each sample."""
    return output.numel() * _READ_BY_MODE[arguments.get("interpolation_mode", 0)]


def interpolation(read: int) -> Formula:
    """Weighted sums of ``read`` pixels for each output value."""

    def formula(arguments: Arguments, output: Tensor) -> int:
        return output.numel() * read

    return formula


def embedding_bag(arguments: Arguments, output: Tensor) -> int:
    """Weighted sums of rows; without weights nothing is multiplied."""
    if arguments["per_sample_weights"] is None:
        return 0
    indices: Tensor = arguments["indices"]
    table: Tensor = arguments["weight"]
    return indices.numel() * table.shape[1]


def fourier_transform(*, real: bool) -> Formula:
    """2.5 N log2 N for N complex numbers: half the usual count of operations; half for real ones.

    N is the size of the transformed axes, of whichever side is not the half spectrum.
    """

    def formula(arguments: Arguments, output: Tensor) -> int:
        image: Tensor = arguments["self"]
        whole = image if image.numel() >= output.numel() else output
        size = math.prod(whole.shape[axis] for axis in arguments["dim"])
        cost = 2.5 * whole.numel() * math.log2(max(size, 1))
        return round(cost / 2 if real else cost)

    return formula


def roi_align(arguments: Arguments, output: Tensor) -> int:
    """Bilinear samples of boxes; without a ratio, as many as a bin of the box has pixels."""
    channels, height, width = output.shape[1:]
    ratio: int = arguments["sampling_ratio"]
    if ratio > 0:
        return output.numel() * ratio * ratio * _BILINEAR
    rois: Tensor = arguments["rois"].float() * arguments["spatial_scale"]
    sizes = rois[:, 3:5] - rois[:, 1:3]
    if not arguments["aligned"]:
        sizes = sizes.clamp_min(1)
    samples = (sizes[:, 0] / width).ceil() * (sizes[:, 1] / height).ceil()
    return int(samples.sum().item()) * channels * height * width * _BILINEAR


def deformable_convolution(arguments: Arguments, output: Tensor) -> int:
    """Torchvision's: each tap is a bilinear sample of every input channel, then a convolution."""
    weight: Tensor = arguments["weight"]
    image: Tensor = arguments["input"]
    pixels = output.shape[0] * math.prod(output.shape[2:])
    samples = pixels * image.shape[1] * math.prod(weight.shape[2:])
    return samples * _BILINEAR + output.numel() * math.prod(weight.shape[1:])


def pairwise_distance(arguments: Arguments, output: Tensor) -> int:
    """A sum over the coordinates for each pair."""
    first: Tensor = arguments["x1"]
    return output.numel() * first.shape[-1]


# Operator, as torch's dispatcher names it, to its formula.
FORMULAS: dict[str, Formula] = {
    "aten::mm": matrix_product("self"),
    "aten::addmm": matrix_product("mat1"),
    "aten::_addmm_activation": matrix_product("mat1"),
    "aten::bmm": matrix_product("self"),
    "aten::baddbmm": matrix_product("batch1"),
    "aten::mv": matrix_product("self"),
    "aten::addmv": matrix_product("mat"),
    "aten::dot": matrix_product("self"),
    "aten::convolution": convolution,
    **{
        f"aten::_scaled_dot_product_{kind}": attention
        for kind in (
            "flash_attention",
            "flash_attention_for_cpu",
            "efficient_attention",
            "cudnn_attention",
            "fused_attention_overrideable",
        )
    },
    "aten::_cdist_forward": pairwise_distance,
    "aten::_euclidean_dist": pairwise_distance,
    "aten::_embedding_bag": embedding_bag,
    "aten::_embedding_bag_forward_only": embedding_bag,
    "aten::grid_sampler_2d": grid_sample,
    "aten::cudnn_grid_sampler": grid_sample,
    "aten::upsample_linear1d": interpolation(2),
    "aten::upsample_bilinear2d": interpolation(_BILINEAR),
    "aten::upsample_bicubic2d": interpolation(_BICUBIC),
    "aten::upsample_trilinear3d": interpolation(8),
    "aten::_fft_r2c": fourier_transform(real=True),
    "aten::_fft_c2r": fourier_transform(real=True),
    "aten::_fft_c2c": fourier_transform(real=False),
    "torchvision::roi_align": roi_align,
    "torchvision::deform_conv2d": deformable_convolution,
    "freqfusion::gather": gather,
    "freqfusion::scatter": spread,
    "freqfusion::correlate": spread,
    "freqfusion::gradients": spread_twice,
    "freqfusion::deformable_attention": deformable_attention,
}
# deformops has an operator for each of its backends.
_DEFORMOPS = re.compile(r"deformops\w*::msda(?!\w*backward)\w*")


def formula_of(name: str) -> Formula | None:
    """The formula of an operator, by the name that torch's dispatcher has for it."""
    if _DEFORMOPS.fullmatch(name):
        return deformops_attention
    return FORMULAS.get(name)
