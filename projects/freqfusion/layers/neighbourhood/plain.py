"""The operators in standard operators of torch, which say what they are.

For exporters, the transforms of ``torch.func``, forward mode, and wherever neither the compiled
form nor the Triton kernels are to be had. An exporter's time and its graph grow with the number of
operations, so a tap takes few of them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from freqfusion.layers.neighbourhood.geometry import Geometry, accumulation_dtype


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel."""
    weights = kernels.to(accumulation_dtype(features.dtype))
    total: Tensor | None = None
    for tap, neighbours in enumerate(all_neighbours(features, kernels.shape[-2:], geometry)):
        weight = weights[:, tap :: geometry.taps]
        if geometry.groups > 1:
            weight = weight.repeat_interleave(features.shape[1] // geometry.groups, 1)
        weighted = neighbours * weight
        total = weighted if total is None else total + weighted
    assert total is not None
    return total.to(features.dtype)


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Return the dot product over channels of each output pixel with each of its neighbours."""
    values = values.to(accumulation_dtype(values.dtype))
    taps = [
        (values * neighbours).unflatten(1, (geometry.groups, -1)).sum(2)
        for neighbours in all_neighbours(features, values.shape[-2:], geometry)
    ]
    return torch.stack(taps, 2).flatten(1, 2)


def scatter(values: Tensor, kernels: Tensor, size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Spread each output pixel over its neighbours, weighted by its kernel."""
    dtype = accumulation_dtype(values.dtype)
    zeros = values.new_zeros((*values.shape[:2], *size), dtype=dtype)
    transposed = torch.func.vjp(lambda features: gather(features, kernels, geometry), zeros)[1]
    spread: Tensor = transposed(values.to(dtype))[0]
    return spread


def all_neighbours(features: Tensor, out_size: Sequence[int], geometry: Geometry) -> list[Tensor]:
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
