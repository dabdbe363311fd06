"""The gradients of the operator on a CPU.

What a sample's four corners contribute is the dot product of each with the gradient of the query's
output; the gradients of weights and locations follow from those four numbers. The gradient of the
maps is again a weighted sum of rows: every pixel sums the queries that read it, after these have
been sorted by pixel. The order does not depend on threads, so that the result is reproducible.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.deformable.corners import Corners
from freqfusion.layers.deformable.rows import Chunks
from freqfusion.layers.neighbourhood.geometry import accumulation_dtype


def attend_backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    need_value: bool,
    need_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights; those that nobody needs are empty."""
    dtype = accumulation_dtype(value.dtype)
    grad_value = torch.empty_like(value if need_value else value[:0])
    grad_locations = torch.empty_like(locations if need_samples else locations[:0])
    grad_weights = torch.empty_like(weights if need_samples else weights[:0])
    grad = grad.unflatten(-1, value.shape[-2:])
    samples = _Samples(locations.shape[1], weights[:1, :1, :1].numel(), dtype)
    chunks = Chunks(locations, shapes, dtype)
    for image, head in chunks.heads():
        gradient = grad[image, :, head].to(dtype).contiguous()
        table = value[image, :, head].to(dtype).contiguous()
        for part, corners in chunks.of(image, head):
            weight = weights[image, part, head].to(dtype).flatten(1).contiguous()
            if need_value:
                samples.put(part, corners, weight)
            if need_samples:
                dots = _dots(gradient[part], table, corners)
                for_locations, for_weights = _of_samples(corners, weight, dots, shapes)
                grad_locations[image, part, head] = for_locations
                grad_weights[image, part, head] = for_weights
        if need_value:
            grad_value[image, :, head] = samples.spread(gradient, shapes)
    return grad_value, grad_locations, grad_weights


def _dots(gradient: Tensor, table: Tensor, corners: Corners) -> list[Tensor]:
    """Dot product of each corner's row with the gradient of its query's output."""
    queries, samples = corners.rows[0].shape
    starts = torch.arange(0, queries * samples, samples, dtype=torch.int32)
    query_of_sample = torch.arange(queries, dtype=torch.int32).repeat_interleave(samples)
    # What autograd calls for the weights of embedding_bag. It reads the rows where they lie, while
    # index_select and a matrix product write them out first.
    return [
        torch.ops.aten._embedding_bag_per_sample_weights_backward(
            gradient, table, rows.flatten(), starts, query_of_sample, 0
        ).view_as(rows)
        for rows in corners.rows
    ]


def _of_samples(
    corners: Corners, weight: Tensor, dots: Sequence[Tensor], shapes: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """Gradients of locations (q, levels, points, 2) and weights (q, levels, points)."""
    (left, right), (top, bottom) = corners.x.weights(), corners.y.weights()
    left_slope, right_slope = corners.x.slopes()
    top_slope, bottom_slope = corners.y.slopes()
    top_left, top_right, bottom_left, bottom_right = dots
    upper = top_left * left + top_right * right
    lower = bottom_left * left + bottom_right * right
    along_top = top_left * left_slope + top_right * right_slope
    along_bottom = bottom_left * left_slope + bottom_right * right_slope
    x = (along_top * top + along_bottom * bottom).mul_(weight)
    y = (upper * top_slope + lower * bottom_slope).mul_(weight)
    # From pixels to locations, where a map has the size 1.
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=x.dtype)[:, None]
    locations = torch.stack([x, y], dim=-1).unflatten(1, (len(shapes), -1)).mul_(sizes)
    return locations, (upper * top + lower * bottom).unflatten(1, (len(shapes), -1))


class _Samples:
    """All samples of one image and head: their first pixel, and what each corner counts."""

    def __init__(self, queries: int, samples: int, dtype: torch.dtype):
        self._pixels = torch.empty((queries, samples), dtype=torch.int32)
        self._weights = torch.empty((4, queries, samples), dtype=dtype)

    def put(self, part: slice, corners: Corners, weight: Tensor) -> None:
        """Note the samples of some queries."""
        self._pixels[part] = corners.rows[0]
        for target, corner in zip(self._weights, corners.weights(), strict=True):
            torch.mul(corner, weight, out=target[part])

    def spread(self, gradient: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Gradient of the maps (S, D) from that of the output (Q, D)."""
        sizes = [height * width for height, width in shapes]
        pixels, order = self._pixels.flatten().sort()
        counts = pixels.bincount(minlength=sum(sizes))
        starts = (counts.cumsum(0) - counts).int()
        queries = order.div(self._pixels.shape[1], rounding_mode="floor").int()
        corners = [
            F.embedding_bag(
                queries, gradient, starts, per_sample_weights=weight.take(order), mode="sum"
            )
            for weight in self._weights
        ]
        levels = zip(*(corner.split(sizes) for corner in corners), strict=True)
        for level, (height, width) in zip(levels, shapes, strict=True):
            total, right, below, across = (part.view(height, width, -1) for part in level)
            # The first pixel of a sample holds what belongs to its three neighbours as well.
            total[:, 1:] += right[:, :-1]
            total[1:] += below[:-1]
            total[1:, 1:] += across[:-1, :-1]
        return corners[0]
