"""The operator as torch's dispatcher knows it: one node for ``torch.compile``, a name for counters.

Only the inputs are kept for the backward pass, which finds the corners again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from freqfusion.layers.deformable import gradients, rows, sampled
from freqfusion.layers.neighbourhood.choice import needs_standard_operators
from freqfusion.layers.sampling import gather_at

_Shapes = Sequence[tuple[int, int]]


def attend(value: Tensor, shapes: _Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of samples, in whichever way suits the device."""
    if torch.compiler.is_exporting():  # grid_sample is one node there
        return sampled.attend(value, shapes, locations, weights)
    if needs_standard_operators():  # not every version of torch can derive grid_sample twice
        return sampled.attend(value, shapes, locations, weights, sample=gather_at)
    if value.device.type != "cpu":
        return sampled.attend(value, shapes, locations, weights)
    flat = [size for shape in shapes for size in shape]
    output: Tensor = _attend(value, flat, locations, weights)
    return output


# The sizes cross the dispatcher as one list of numbers: height, width, height, width and so on.


def _pairs(shapes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2], strict=True))


@torch.library.custom_op("freqfusion::deformable_attention", mutates_args=())
def _attend(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return rows.attend(value, _pairs(shapes), locations, weights)


@torch.library.custom_op("freqfusion::deformable_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    need_value: bool,
    need_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return gradients.attend_backward(
        grad,
        value,
        _pairs(shapes),
        locations,
        weights,
        need_value=need_value,
        need_samples=need_samples,
    )


@_attend.register_fake
def _(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty((*locations.shape[:2], value.shape[2] * value.shape[3]))


@_attend_backward.register_fake
def _(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    need_value: bool,
    need_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(value if need_value else value[:0]),
        torch.empty_like(locations if need_samples else locations[:0]),
        torch.empty_like(weights if need_samples else weights[:0]),
    )


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    need_value, _, *need_samples = ctx.needs_input_grad
    if torch.is_grad_enabled() or needs_standard_operators():  # will be differentiated once more
        inputs = (value, locations, weights)
        with torch.enable_grad():
            output = sampled.attend(value, _pairs(ctx.shapes), locations, weights, sample=gather_at)
            for_value, for_locations, for_weights = torch.autograd.grad(
                output, inputs, grad, create_graph=True, allow_unused=True
            )
        return for_value, None, for_locations, for_weights
    for_value, for_locations, for_weights = _attend_backward(
        grad, value, ctx.shapes, locations, weights, need_value, any(need_samples)
    )
    return (
        for_value if need_value else None,
        None,
        for_locations if need_samples[0] else None,
        for_weights if need_samples[1] else None,
    )


_attend.register_autograd(_backward, setup_context=_save_inputs)
