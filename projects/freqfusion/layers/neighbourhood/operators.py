"""``gather``, ``scatter`` and ``correlate`` as torch operators with derivatives of any order.

With features x, kernels m and values y, all three come from one trilinear form, the sum over output
pixels p, taps t and channels c of ``y[c, p] * m[t, p] * x[c, p + t]``: each operator is its
derivative in one argument, so that the derivatives of the three are the three again, and nothing
but the inputs of a call is kept for the backward pass. Where both derivatives of a gather are
wanted, one operator more computes them together.

They are registered with torch's dispatcher, which lets ``torch.compile`` treat each as one node and
lets counters name it. On a CPU they are computed by :mod:`.compiled`, on a GPU by the Triton
kernels in :mod:`.fused`, elsewhere by :mod:`.plain`; :mod:`.choice` decides.
"""

from typing import Any

import torch
from torch import Tensor

from freqfusion.layers.neighbourhood import compiled, plain
from freqfusion.layers.neighbourhood.choice import choose_form, needs_standard_operators
from freqfusion.layers.neighbourhood.geometry import (
    Geometry,
    empty_features,
    empty_kernels,
    empty_output,
    memory_format_of,
)


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel.

    The output has the spatial size of the kernels and the dtype and memory format of the features.
    """
    if needs_standard_operators():
        return plain.gather(features, kernels, geometry)
    output: Tensor = _gather(features, kernels, list(geometry))
    return output


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Return the dot product over channels of each output pixel with each of its neighbours.

    The result is float32 for half-precision inputs.
    """
    if needs_standard_operators():
        return plain.correlate(values, features, geometry)
    kernels: Tensor = _correlate(values, features, list(geometry))
    return kernels


def scatter(values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel.

    The result, of height and width ``size``, is float32 for half-precision inputs.
    """
    if needs_standard_operators():
        return plain.scatter(values, kernels, size, geometry)
    features: Tensor = _scatter(values, kernels, *size, list(geometry))
    return features


# The geometry crosses the dispatcher as the list of its fields, since operators take no classes.


@torch.library.custom_op("freqfusion::gather", mutates_args=())
def _gather(features: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    with torch.cuda.device_of(features):
        form = choose_form(features, kernels)
        output: Tensor = form.gather(features, kernels, Geometry(*geometry))
    return output.contiguous(memory_format=memory_format_of(features))


@torch.library.custom_op("freqfusion::correlate", mutates_args=())
def _correlate(values: Tensor, features: Tensor, geometry: list[int]) -> Tensor:
    with torch.cuda.device_of(values):
        form = choose_form(features, values)
        kernels: Tensor = form.correlate(values, features, Geometry(*geometry))
    return kernels.contiguous(memory_format=memory_format_of(values))


@torch.library.custom_op("freqfusion::scatter", mutates_args=())
def _scatter(
    values: Tensor, kernels: Tensor, height: int, width: int, geometry: list[int]
) -> Tensor:
    with torch.cuda.device_of(values):
        form = choose_form(values, kernels)
        features: Tensor = form.scatter(values, kernels, (height, width), Geometry(*geometry))
    return features.contiguous(memory_format=memory_format_of(values))


@torch.library.custom_op("freqfusion::gradients", mutates_args=())
def _gradients(
    values: Tensor, features: Tensor, kernels: Tensor, geometry: list[int]
) -> tuple[Tensor, Tensor]:
    """Both derivatives of a gather: ``scatter`` and ``correlate`` of its output's gradient."""
    if choose_form(features, kernels) is compiled:
        return compiled.gradients(values, features, kernels, Geometry(*geometry))
    size = features.shape[-2:]
    return _scatter(values, kernels, *size, geometry), _correlate(values, features, geometry)


@_gather.register_fake
def _(features: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    return empty_output(features, kernels)


@_correlate.register_fake
def _(values: Tensor, features: Tensor, geometry: list[int]) -> Tensor:
    return empty_kernels(values, Geometry(*geometry))


@_scatter.register_fake
def _(values: Tensor, kernels: Tensor, height: int, width: int, geometry: list[int]) -> Tensor:
    return empty_features(values, (height, width))


@_gradients.register_fake
def _(
    values: Tensor, features: Tensor, kernels: Tensor, geometry: list[int]
) -> tuple[Tensor, Tensor]:
    size = features.shape[-2:]
    return empty_features(values, size), empty_kernels(values, Geometry(*geometry))


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
    there = plain.all_neighbours(flipped, kernels.shape[-2:], geometry)
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
