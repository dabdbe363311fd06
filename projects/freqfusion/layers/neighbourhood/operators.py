"""``gather``, ``scatter`` and ``correlate`` as torch operators with derivatives of any order.

With features x, kernels m and values y, all three come from one trilinear form, the sum over output
pixels p, taps t and channels c of ``y[c, p] * m[t, p] * x[c, p + t]``: each operator is its
derivative in one argument, so that the derivatives of the three are the three again, and nothing
but the inputs of a call is kept for the backward pass. Where both derivatives of a gather are
wanted, one operator more computes them together.

They are registered with torch's dispatcher, which lets ``torch.compile`` treat each as one node and
lets counters name it. On a GPU they are computed by the Triton kernels in :mod:`.fused`, where
:mod:`.choice` finds them.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from freqfusion.layers.neighbourhood import banded, shifted
from freqfusion.layers.neighbourhood.choice import fused_kernels, needs_standard_operators
from freqfusion.layers.neighbourhood.geometry import Geometry, accumulation_dtype, empty_output


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel.

    The output has the spatial size of the kernels and the dtype and memory format of the features.
    """
    if needs_standard_operators():
        return _standard_gather(features, kernels, geometry)
    output: Tensor = _gather(features, kernels, list(geometry))
    return output


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Return the dot product over channels of each output pixel with each of its neighbours.

    The result is float32 for half-precision inputs.
    """
    if needs_standard_operators():
        return _standard_correlate(values, features, geometry)
    kernels: Tensor = _correlate(values, features, list(geometry))
    return kernels


def scatter(values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel.

    The result, of height and width ``size``, is float32 for half-precision inputs.
    """
    if needs_standard_operators():
        return _standard_scatter(values, kernels, size, geometry)
    features: Tensor = _scatter(values, kernels, *size, list(geometry))
    return features


# The geometry crosses the dispatcher as the list of its fields, since operators take no classes.


@torch.library.custom_op("freqfusion::gather", mutates_args=())
def _gather(features: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    g = Geometry(*geometry)
    form = _form(features, kernels, features.shape[-2:], kernels.shape[-2:], g)
    with torch.cuda.device_of(features):
        output: Tensor = form.gather(features, kernels, g)
    return output


@torch.library.custom_op("freqfusion::correlate", mutates_args=())
def _correlate(values: Tensor, features: Tensor, geometry: list[int]) -> Tensor:
    g = Geometry(*geometry)
    form = _form(features, values, features.shape[-2:], values.shape[-2:], g)
    with torch.cuda.device_of(values):
        kernels: Tensor = form.correlate(values, features, g)
    return kernels


@torch.library.custom_op("freqfusion::scatter", mutates_args=())
def _scatter(
    values: Tensor, kernels: Tensor, height: int, width: int, geometry: list[int]
) -> Tensor:
    g = Geometry(*geometry)
    form = _form(values, kernels, (height, width), values.shape[-2:], g)
    with torch.cuda.device_of(values):
        features: Tensor = form.scatter(values, kernels, (height, width), g)
    return features


@torch.library.custom_op("freqfusion::gradients", mutates_args=())
def _gradients(
    values: Tensor, features: Tensor, kernels: Tensor, geometry: list[int]
) -> tuple[Tensor, Tensor]:
    """Both derivatives of a gather: ``scatter`` and ``correlate`` of its output's gradient."""
    g = Geometry(*geometry)
    size = (features.shape[-2], features.shape[-1])
    form = _form(features, kernels, size, values.shape[-2:], g)
    with torch.cuda.device_of(values):
        if form is banded:
            return banded.gradients(values, features, kernels, g)
        return form.scatter(values, kernels, size, g), form.correlate(values, features, g)


def _form(
    first: Tensor, second: Tensor, size: Sequence[int], out_size: Sequence[int], g: Geometry
) -> ModuleType:
    """The module that computes this case fastest."""
    fused = fused_kernels(first, second)
    if fused is not None:
        return fused
    source = g.source_size(size[0], size[1])
    if first.device.type == "cpu" and banded.is_applicable(source, out_size, g):
        return banded
    return shifted


@_gather.register_fake
def _(features: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    return empty_output(features, kernels.shape[-2:])


@_correlate.register_fake
def _(values: Tensor, features: Tensor, geometry: list[int]) -> Tensor:
    g = Geometry(*geometry)
    shape = (values.shape[0], g.groups * g.taps, *values.shape[-2:])
    return values.new_empty(shape, dtype=accumulation_dtype(values.dtype))


@_scatter.register_fake
def _(values: Tensor, kernels: Tensor, height: int, width: int, geometry: list[int]) -> Tensor:
    shape = (*values.shape[:2], height, width)
    return values.new_empty(shape, dtype=accumulation_dtype(values.dtype))


@_gradients.register_fake
def _(
    values: Tensor, features: Tensor, kernels: Tensor, geometry: list[int]
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(values.dtype)
    return (
        values.new_empty(features.shape, dtype=dtype),
        values.new_empty(kernels.shape, dtype=dtype),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *_, geometry = inputs
    ctx.save_for_backward(first, second)
    ctx.geometry = Geometry(*geometry)


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, kernels = ctx.saved_tensors
    g = ctx.geometry
    need_features, need_kernels, _ = ctx.needs_input_grad
    if need_features and need_kernels and not needs_standard_operators():
        of_features, of_kernels = _gradients(grad, features, kernels, list(g))
        return of_features.to(features.dtype), of_kernels.to(kernels.dtype), None
    return (
        scatter(grad, kernels, features.shape[-2:], g).to(features.dtype)
        if need_features
        else None,
        correlate(grad, features, g).to(kernels.dtype) if need_kernels else None,
        None,
    )


def _save_correlated(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _save_inputs(ctx, inputs, output)
    ctx.is_one_map = inputs[0] is inputs[1]


def _correlate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, features = ctx.saved_tensors
    g = ctx.geometry
    need_values, need_features, _ = ctx.needs_input_grad
    if ctx.is_one_map and need_values and g.margin == 0:
        # Each product counts for both of its pixels: one pass over the map in place of two.
        both = grad + _of_opposite_taps(grad, g)
        return gather(features, both, g).to(values.dtype), None, None
    return (
        gather(features, grad, g).to(values.dtype) if need_values else None,
        scatter(values, grad, features.shape[-2:], g).to(features.dtype) if need_features else None,
        None,
    )


def _of_opposite_taps(kernels: Tensor, geometry: Geometry) -> Tensor:
    """For every pixel and tap, what the pixel there has for the tap that points back."""
    flipped = kernels.unflatten(1, (-1, geometry.taps)).flip(2)
    there = _all_neighbours(flipped, kernels.shape[-2:], geometry)
    return torch.stack([maps[:, :, tap] for tap, maps in enumerate(there)], 2).flatten(1, 2)


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    values, kernels = ctx.saved_tensors
    g = ctx.geometry
    need_values, need_kernels, *_ = ctx.needs_input_grad
    return (
        gather(grad, kernels, g).to(values.dtype) if need_values else None,
        correlate(values, grad, g).to(kernels.dtype) if need_kernels else None,
        None,
        None,
        None,
    )


def _save_all_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, geometry = inputs
    ctx.save_for_backward(*tensors)
    ctx.geometry = Geometry(*geometry)


def _gradients_backward(ctx: Any, spread: Tensor, products: Tensor) -> tuple[Tensor | None, ...]:
    """From the gradients in what ``scatter`` and what ``correlate`` gave."""
    values, features, kernels = ctx.saved_tensors
    g = ctx.geometry
    need_values, need_features, need_kernels, _ = ctx.needs_input_grad
    of_values = None
    if need_values:
        of_values = gather(spread, kernels, g) + gather(features, products, g)
    size = (features.shape[-2], features.shape[-1])
    return (
        None if of_values is None else of_values.to(values.dtype),
        scatter(values, products, size, g).to(features.dtype) if need_features else None,
        correlate(values, spread, g).to(kernels.dtype) if need_kernels else None,
        None,
    )


_gather.register_autograd(_gather_backward, setup_context=_save_inputs)
_correlate.register_autograd(_correlate_backward, setup_context=_save_correlated)
_scatter.register_autograd(_scatter_backward, setup_context=_save_inputs)
_gradients.register_autograd(_gradients_backward, setup_context=_save_all_inputs)


# For exporters, the transforms of torch.func and forward mode: standard operators only (pad, index,
# slice, multiply, add). An exporter's time and its graph grow with the number of operations, so a
# tap takes few of them.


def _standard_gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    weights = kernels.to(accumulation_dtype(features.dtype))
    total: Tensor | None = None
    for tap, neighbours in enumerate(_all_neighbours(features, kernels.shape[-2:], geometry)):
        weight = weights[:, tap :: geometry.taps]
        if geometry.groups > 1:
            weight = weight.repeat_interleave(features.shape[1] // geometry.groups, 1)
        weighted = neighbours * weight
        total = weighted if total is None else total + weighted
    assert total is not None
    return total.to(features.dtype)


def _standard_correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    values = values.to(accumulation_dtype(values.dtype))
    taps = [
        (values * neighbours).unflatten(1, (geometry.groups, -1)).sum(2)
        for neighbours in _all_neighbours(features, values.shape[-2:], geometry)
    ]
    return torch.stack(taps, 2).flatten(1, 2)


def _standard_scatter(
    values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry
) -> Tensor:
    dtype = accumulation_dtype(values.dtype)
    zeros = values.new_zeros((*values.shape[:2], *size), dtype=dtype)
    transposed = torch.func.vjp(
        lambda features: _standard_gather(features, kernels, geometry), zeros
    )[1]
    spread: Tensor = transposed(values.to(dtype))[0]
    return spread


def _all_neighbours(features: Tensor, out_size: Sequence[int], geometry: Geometry) -> list[Tensor]:
    """Return for each tap the source pixel of every output pixel."""
    border = geometry.reach - geometry.margin
    source = features.to(accumulation_dtype(features.dtype))
    padded = F.pad(source, (border,) * 4) if border else source
    lines = _shifted(padded, -2, out_size[0], geometry)
    return [tap for line in lines for tap in _shifted(line, -1, out_size[1], geometry)]


def _shifted(padded: Tensor, dim: int, out: int, geometry: Geometry) -> list[Tensor]:
    """Return the source lines under ``out`` output lines, for each shift of the taps."""
    size, scale = padded.shape[dim] - 2 * geometry.reach, geometry.scale
    if not statically_known_true(out == scale * size):
        index = geometry.source(torch.arange(out, device=padded.device), out, size)
        return [padded.index_select(dim, index + shift) for shift in geometry.shifts]
    if scale > 1:
        # Repeated once, every tap is a slice.
        index = torch.arange(padded.shape[dim] * scale, device=padded.device) // scale
        padded = padded.index_select(dim, index)
    return [padded.narrow(dim, scale * shift, out) for shift in geometry.shifts]
