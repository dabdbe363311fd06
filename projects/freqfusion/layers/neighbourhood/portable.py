"""The gather in standard operators only (pad, index, multiply, add), for exporters."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import Geometry, accumulation_dtype


def gather(features: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
    """Sum the neighbours of each output pixel, weighted by its kernel."""
    dtype = accumulation_dtype(features.dtype)
    weights = kernels.to(dtype).unflatten(1, (geometry.groups, geometry.taps))
    total: Tensor | None = None
    for tap, neighbours in enumerate(_neighbours(features, kernels.shape[-2:], geometry)):
        grouped = neighbours.unflatten(1, (geometry.groups, -1)) * weights[:, :, tap, None]
        total = grouped if total is None else total + grouped
    assert total is not None
    values: Tensor = total.flatten(1, 2).to(features.dtype)
    return values


def correlate(values: Tensor, features: Tensor, geometry: Geometry) -> Tensor:
    """Dot product over channels of each output pixel with each of its neighbours."""
    dtype = accumulation_dtype(values.dtype)
    grouped = values.to(dtype).unflatten(1, (geometry.groups, -1))
    taps = [
        (grouped * neighbours.unflatten(1, (geometry.groups, -1))).sum(2)
        for neighbours in _neighbours(features, values.shape[-2:], geometry)
    ]
    return torch.stack(taps, 2).flatten(1, 2)


def _neighbours(features: Tensor, out_size: Sequence[int], geometry: Geometry) -> list[Tensor]:
    height, width = geometry.source_size(*features.shape[-2:])
    border = geometry.reach - geometry.margin
    padded = F.pad(features, (border,) * 4).to(accumulation_dtype(features.dtype))
    if geometry.scale == 1 and (height, width) == tuple(out_size):
        return [
            padded[..., down : down + height, right : right + width]
            for down in geometry.shifts
            for right in geometry.shifts
        ]
    rows = geometry.source(torch.arange(out_size[0], device=features.device), out_size[0], height)
    columns = geometry.source(torch.arange(out_size[1], device=features.device), out_size[1], width)
    return [
        line.index_select(-1, columns + right)
        for line in (padded.index_select(-2, rows + down) for down in geometry.shifts)
        for right in geometry.shifts
    ]
