"""Multiply-adds of a module on given inputs, for each of its parts and each operator.

The formulas are those of ``torch.utils.flop_counter``, halved, since a multiply-add counts once
here, and others for the operators that it does not know. What is counted are products and
weighted sums: matrix products, convolutions, attention, reassembly and local similarity, and
interpolation, which adds up as many pixels with weights as it reads.

A formula takes the operator's arguments as its schema has them, and the output as ``out_val``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from freqfusion.analysis.costs import RunningModule, roll_up

Formula = Callable[..., int]

_BILINEAR, _BICUBIC = 4, 16
# ``interpolation_mode`` of the grid samplers, as torch numbers it, to the pixels that are read.
_READ_BY_MODE = {0: _BILINEAR, 1: 0, 2: _BICUBIC}
# It compares boxes, and multiplies for nothing else.
_COMPARING = {"torchvision::nms"}
# deformops has an operator for each of its backends.
_DEFORMOPS = re.compile(r"deformops\w*::msda(?!\w*backward)\w*")


@dataclass(frozen=True)
class FlopCount:
    """What a forward pass multiplies and adds; a multiply-add counts once.

    Args:
        total: Of the whole module.
        by_module: Name of each part, as in ``named_modules``, to the sum over it and its parts.
        by_operator: Each counted operator to its sum.
        uncounted: Torch's operators without a formula, each with the number of its calls.
        unknown: The same of other packages; they may do work that is missing here.
    """

    total: int
    by_module: dict[str, int]
    by_operator: dict[str, int]
    uncounted: dict[str, int]
    unknown: dict[str, int]


def count_flops(module: nn.Module, *inputs: Any) -> FlopCount:
    """Run a module once on its inputs, without gradients, and count its multiply-adds.

    The module runs in the mode that it is in; ``eval()`` it first where that is meant. Work is
    filed under the innermost part that runs, so what a module computes with the weights of a part
    without calling it is the module's. On CPU and GPU the counts are the same. What does not pass
    torch's dispatcher (extensions bound to Python directly) cannot be seen.

    Args:
        module: Any module; it is left as it was.
        inputs: What it is called with.
    """
    with RunningModule(module) as running, _plain_attention(), torch.no_grad():
        counter = _Counter(running)
        with counter:
            module(*inputs)
    is_known = {name: name.startswith("aten::") or name in _COMPARING for name in counter.rest}
    return FlopCount(
        total=sum(counter.by_module.values()),
        by_module=roll_up(counter.by_module, module),
        by_operator=dict(counter.by_operator.most_common()),
        uncounted={name: n for name, n in counter.rest.most_common() if is_known[name]},
        unknown={name: n for name, n in counter.rest.most_common() if not is_known[name]},
    )


class _Counter(TorchDispatchMode):
    """Applies formulas to operators as the dispatcher sees them, below autograd.

    ``FlopCounterMode`` itself names modules by their classes and fails where a module is given a
    view of a parameter.
    """

    def __init__(self, running: RunningModule):
        super().__init__()  # type: ignore[no-untyped-call]
        self.running = running
        self.by_module: Counter[str] = Counter()
        self.by_operator: Counter[str] = Counter()
        self.rest: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, name = kwargs or {}, operator._schema.name
        formula = formula_of(operator)
        if formula is None:
            # In inference mode operators arrive whole that autograd would have taken apart.
            with self:
                parts = operator.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = operator(*args, **kwargs)
        if formula is None:
            self.rest[name] += 1
        else:
            flops = formula(*args, **kwargs, out_val=output)
            self.by_module[self.running.name] += flops
            self.by_operator[name] += flops
        return output


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Switch off the fused encoder layers of torch, which would hide their parts."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def formula_of(operator: Any) -> Formula | None:
    """Return the formula of an operator: ours, or torch's own, which counts twice as much."""
    from torch.utils.flop_counter import flop_registry  # imports Triton where it is installed

    name = operator._schema.name
    if _DEFORMOPS.fullmatch(name):
        return deformops_attention
    torchs = flop_registry.get(operator._overloadpacket)
    if name in FORMULAS or torchs is None:
        return FORMULAS.get(name)
    return lambda *args, **kwargs: torchs(*args, **kwargs) // 2


def matrix_product(first: int) -> Formula:
    """Return the formula of (..., n, k) times (..., k, m) or (k,), the argument ``first``."""

    def formula(*args: Any, out_val: Tensor, **kwargs: Any) -> int:
        left: Tensor = args[first]
        return out_val.numel() * left.shape[-1]

    return formula


def attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **kwargs: Any) -> int:
    """Count products of queries with keys and of weights with values; masks leave nothing out."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def gather(features: Tensor, kernels: Tensor, geometry: list[int], *, out_val: Tensor) -> int:
    """Count B * C * Ho * Wo * k * k for a reassembly with k * k taps."""
    return out_val.numel() * geometry[0] ** 2


def spread(values: Tensor, *rest: Any, out_val: Any) -> int:
    """Count k * k products for each of ``values``: reassembly's adjoint, and local similarity."""
    return values.numel() * int(rest[-1][0]) ** 2


def spread_twice(values: Tensor, *rest: Any, out_val: Any) -> int:
    """Count both derivatives of reassembly at once."""
    return 2 * spread(values, *rest, out_val=out_val)


def deformable_attention(
    value: Tensor, shapes: Any, locations: Tensor, weights: Tensor, *, out_val: Tensor
) -> int:
    """Count B * Q * heads * D * L * P * 4: (B, Q, heads * D) from P points on each of L levels.

    The weight of a sample is multiplied into those of its four corners before channels come into
    play. (Where it is counted apart, as by Zhu et al., the four is a five.)
    """
    return _BILINEAR * out_val.numel() * math.prod(weights.shape[3:])


def deformops_attention(
    value: Tensor, sizes: Tensor, starts: Tensor, locations: Tensor, *rest: Any, out_val: Any
) -> int:
    """Count the same by deformops, whose operators take locations (B, Q, heads, L, P, 2) fourth."""
    output: Tensor = out_val[0] if isinstance(out_val, tuple | list) else out_val
    return _BILINEAR * output.numel() * math.prod(locations.shape[3:5])


def grid_sample(
    image: Tensor, grid: Tensor, interpolation_mode: int = 0, *rest: Any, out_val: Tensor
) -> int:
    """Count the weighted sums of the pixels around each sample."""
    return out_val.numel() * _READ_BY_MODE[interpolation_mode]


def interpolation(read: int) -> Formula:
    """Return the formula of weighted sums of ``read`` pixels for each output value."""

    def formula(*args: Any, out_val: Tensor, **kwargs: Any) -> int:
        return out_val.numel() * read

    return formula


def fourier_transform(*, real: bool) -> Formula:
    """Return 2.5 N log2 N for N complex numbers: half the usual count of operations.

    N is the size of the transformed axes, of whichever side is not the half spectrum. Real numbers
    cost half of it.
    """

    def formula(image: Tensor, axes: Any, *rest: Any, out_val: Tensor) -> int:
        whole = image if image.numel() >= out_val.numel() else out_val
        size = math.prod(whole.shape[axis] for axis in axes)
        cost = 2.5 * whole.numel() * math.log2(max(size, 1))
        return round(cost / 2 if real else cost)

    return formula


def roi_align(
    image: Tensor, rois: Tensor, scale: float, height: int, width: int, ratio: int, aligned: bool,
    *, out_val: Tensor,
) -> int:  # fmt: skip
    """Count bilinear samples of boxes; without a ratio, as many as a bin of the box has pixels."""
    if ratio > 0:
        return out_val.numel() * ratio * ratio * _BILINEAR
    sizes = (rois[:, 3:5] - rois[:, 1:3]).float() * scale
    if not aligned:
        sizes = sizes.clamp_min(1)
    samples = (sizes[:, 0] / width).ceil() * (sizes[:, 1] / height).ceil()
    return int(samples.sum().item()) * out_val.shape[1] * height * width * _BILINEAR


def deformable_convolution(image: Tensor, weight: Tensor, *rest: Any, out_val: Tensor) -> int:
    """Count a bilinear sample of every channel at each tap, then a convolution (torchvision's)."""
    pixels = out_val.shape[0] * math.prod(out_val.shape[2:])
    samples = pixels * image.shape[1] * math.prod(weight.shape[2:])
    return samples * _BILINEAR + out_val.numel() * math.prod(weight.shape[1:])


# Operator, as torch's dispatcher names it, to its formula.
FORMULAS: dict[str, Formula] = {
    "aten::_addmm_activation": matrix_product(1),
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": attention,
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
    "freqfusion::sample_at_offsets": interpolation(_BILINEAR),
}
