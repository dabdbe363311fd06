"""Starts the Triton kernels: allocates the result and hands over sizes, strides and the plan."""

from typing import Any

import torch
import triton
from torch import Tensor

from freqfusion.layers.neighbourhood.fused import plan
from freqfusion.layers.neighbourhood.fused.correlate import correlate_kernel
from freqfusion.layers.neighbourhood.fused.gather import gather_kernel
from freqfusion.layers.neighbourhood.fused.scatter import scatter_kernel
from freqfusion.layers.neighbourhood.geometry import Geometry, accumulation_dtype, empty_output

_TYPES = {torch.float32: triton.language.float32, torch.float64: triton.language.float64}
# For each thread; two programs of 256 threads then share a multiprocessor.
_REGISTERS = 120


def is_interpreted() -> bool:
    """Whether Triton runs the kernels in its interpreter, which works on tensors of a CPU."""
    return not isinstance(gather_kernel, triton.runtime.JITFunction)


def fits(*tensors: Tensor) -> bool:
    """Whether the kernels can compute with these tensors: any layout, but not of every size."""
    known = (torch.float16, torch.bfloat16, *_TYPES)
    return all(t.dtype in known for t in tensors) and plan.can_be_indexed(*tensors)


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel."""
    values = empty_output(features, kernels)
    if values.numel() == 0:
        return values
    case = _Case(features, values, geometry)
    p = plan.plan_gather(case.source, case.out, geometry, **case.options(features))
    gather_kernel[case.grid(p)](
        features,
        kernels,
        values,
        *features.stride(),
        *kernels.stride(),
        *values.stride(),
        p.parts,
        p.tiles[0] * p.tiles[1],
        p.tiles[1],
        geometry.groups,
        p.chunks,
        case.channels,
        *features.shape[-2:],
        *case.source,
        *case.out,
        *p.base,
        case.offset,
        SUB=p.sub,
        BLOCK_C=p.block,
        **case.constants(p, features, kernels),
    )
    return values


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Dot product over channels of each output pixel with each of its neighbours."""
    shape = (values.shape[0], geometry.groups * geometry.taps, *values.shape[-2:])
    kernels = values.new_empty(shape, dtype=accumulation_dtype(values.dtype))
    if kernels.numel() == 0:
        return kernels
    case = _Case(features, values, geometry)
    p = plan.plan_correlate(case.source, case.out, geometry, **case.options(values, features))
    correlate_kernel[case.grid(p)](
        values,
        features,
        kernels,
        *values.stride(),
        *features.stride(),
        *kernels.stride(),
        p.tiles[0] * p.tiles[1],
        p.tiles[1],
        geometry.groups,
        case.channels,
        *features.shape[-2:],
        *case.source,
        *case.out,
        *p.base,
        case.offset,
        SUB=p.sub,
        TAPS=plan.next_power_of_two(geometry.taps),
        BLOCK_C=p.block,
        **case.constants(p, values, features),
    )
    return kernels


def scatter(values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel."""
    shape = (*values.shape[:2], *size)
    features = values.new_empty(shape, dtype=accumulation_dtype(values.dtype))
    if values.numel() == 0 or features.numel() == 0:
        return features.zero_()
    case = _Case(features, values, geometry)
    options = case.options(values)
    p = plan.plan_scatter(size, case.source, case.out, geometry, **options)
    scatter_kernel[case.grid(p)](
        values,
        kernels,
        features,
        *values.stride(),
        *kernels.stride(),
        *features.stride(),
        p.parts,
        p.tiles[0] * p.tiles[1],
        p.tiles[1],
        geometry.groups,
        p.chunks,
        case.channels,
        *size,
        *case.source,
        *case.out,
        case.offset,
        *(-(-out // source) for out, source in zip(case.out, case.source, strict=True)),
        SUBS=plan.scatter_columns(case.source[1], case.out[1]),
        BLOCK_C=p.block,
        **case.constants(p, values, kernels),
    )
    return features


class _Case:
    """The sizes that all three launches need."""

    def __init__(self, features: Tensor, values: Tensor, geometry: Geometry):
        self.geometry = geometry
        self.source = geometry.source_size(features.shape[-2], features.shape[-1])
        self.out = (values.shape[-2], values.shape[-1])
        self.images = values.shape[0] * geometry.groups
        self.channels = values.shape[1] // geometry.groups
        self.offset = geometry.margin - geometry.reach

    def options(self, *images: Tensor) -> dict[str, Any]:
        """What a plan depends on beside sizes; channels-last if all ``images`` are."""
        last = all(t.stride(1) == 1 and t.shape[1] > 1 for t in images)
        return {"images": self.images, "channels": self.channels, "channels_last": last}

    def grid(self, p: plan.Plan) -> tuple[int]:
        return (self.images * p.programs_per_group,)

    def constants(self, p: plan.Plan, *inputs: Tensor) -> dict[str, Any]:
        """Constants that are compiled into every kernel."""
        dtype = torch.promote_types(*(accumulation_dtype(t.dtype) for t in inputs))
        return {
            "KERNEL": self.geometry.kernel_size,
            "DILATION": self.geometry.dilation,
            "SCALE_Y": p.scales[0],
            "SCALE_X": p.scales[1],
            "TILE_H": p.tile[0],
            "TILE_W": p.tile[1],
            "ACC": _TYPES[dtype],
            "num_warps": p.warps,
            "maxnreg": _REGISTERS * dtype.itemsize // 4,
        }
