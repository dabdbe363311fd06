"""Deformable attention on a CPU: weighted sums of the rows of a table, a few queries at a time.

The pixels of one head are the rows, and what a query reads are bags of rows with weights: torch's
``embedding_bag``. No sample is ever written out, and the numbers that belong to a chunk of queries
stay in a core's cache. Heads with few queries share a chunk: their rows, and their queries, follow
one another.

What a sample's four corners contribute to the gradients is the dot product of each with the
gradient of the query's output; the gradients of weights and locations follow from those four
numbers. The gradient of the maps is again a weighted sum of rows: every pixel sums the queries that
read it, after these have been sorted by pixel. The order does not depend on threads, so that the
result is reproducible.

The shapes are those of :mod:`.deformable`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import accumulation_dtype
from freqfusion.layers.sampling import nan_if_infinite

# Samples in one chunk: an array of them is 64 KiB in float32, and about twenty are in use at once.
_CHUNK_SAMPLES = 1 << 14


class Lattice(NamedTuple):
    """What corners need to know of the level of each sample of one query and head.

    Every field is (1, levels * points), and is expanded to a chunk of queries once, since
    broadcasting over so few samples is slower than reading.
    """

    width: Tensor
    height: Tensor
    last_left: Tensor  # the rightmost pixel that has a right neighbour
    last_top: Tensor
    right: Tensor  # distance to the right neighbour, endless where there is none
    below: Tensor
    step_right: Tensor  # the same distances in rows of the table
    step_below: Tensor
    line: Tensor  # rows of the table from one line of the map to the next
    start: Tensor  # the first row of this level

    @classmethod
    def of(cls, shapes: Sequence[tuple[int, int]], points: int, dtype: torch.dtype) -> "Lattice":
        """Return the lattice of one query, for a table of one row per pixel."""

        def repeat(numbers: Sequence[float], kind: torch.dtype) -> Tensor:
            return torch.tensor(numbers, dtype=kind).repeat_interleave(points)[None]

        heights, widths = zip(*shapes, strict=True)
        starts = [sum(h * w for h, w in shapes[:level]) for level in range(len(shapes))]
        far = torch.finfo(dtype).max
        return cls(
            width=repeat(widths, dtype),
            height=repeat(heights, dtype),
            last_left=repeat([max(w - 2, 0) for w in widths], dtype),
            last_top=repeat([max(h - 2, 0) for h in heights], dtype),
            right=repeat([1 if w > 1 else far for w in widths], dtype),
            below=repeat([1 if h > 1 else far for h in heights], dtype),
            step_right=repeat([1 if w > 1 else 0 for w in widths], torch.int32),
            step_below=repeat([w if h > 1 else 0 for h, w in shapes], torch.int32),
            line=repeat(widths, torch.int32),
            start=repeat(starts, torch.int32),
        )

    def repeated(self, queries: int) -> "Lattice":
        """Repeat the lattice for several queries, (queries, levels * points)."""
        return Lattice(*(field.repeat(queries, 1) for field in self))

    def narrowed(self, queries: int) -> "Lattice":
        """Return views of the part of the first queries."""
        return Lattice(*(field[:queries] for field in self))


class Axis(NamedTuple):
    """A sample on one axis: its distances from a pair of neighbouring pixels.

    The pair always lies inside the map. A pixel counts ``max(0, 1 - distance)``; this is bilinear
    interpolation with zeros outside without asking where the map ends.
    """

    pixel: Tensor  # the first one of the pair
    to_first: Tensor
    to_second: Tensor
    weights: tuple[Tensor, Tensor]  # how much each pixel of the pair counts

    @classmethod
    def of(cls, coordinate: Tensor, size: Tensor, last: Tensor, step: Tensor) -> "Axis":
        """Find the pairs around coordinates in [0, 1] on an axis of ``size`` pixels."""
        position = (coordinate * size).sub_(0.5)
        # What NaN becomes as an integer is not defined.
        pixel = torch.minimum(position, last).clamp_(min=0).nan_to_num_(nan=0.0).int()
        to_first = position.sub_(pixel.to(position.dtype))
        to_second = to_first - step
        return cls(pixel, to_first, to_second, (_tent(to_first), _tent(to_second)))

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Return derivatives of the weights; at a pixel's centre, those towards the right."""
        return _tent_slope(self.to_first), _tent_slope(self.to_second)


class Corners(NamedTuple):
    """The four pixels around each sample, all (queries, levels * points)."""

    x: Axis
    y: Axis
    rows: tuple[Tensor, Tensor, Tensor, Tensor]  # top left, top right, bottom left, bottom right

    @classmethod
    def of(cls, locations: Tensor, lattice: Lattice) -> "Corners":
        """Find the corners of ``locations`` (queries, levels * points, 2)."""
        x = Axis.of(locations[..., 0], lattice.width, lattice.last_left, lattice.right)
        y = Axis.of(locations[..., 1], lattice.height, lattice.last_top, lattice.below)
        top_left = y.pixel * lattice.line + x.pixel + lattice.start
        top_right = top_left + lattice.step_right
        bottom_left = top_left + lattice.step_below
        bottom_right = top_right + lattice.step_below
        return cls(x, y, (top_left, top_right, bottom_left, bottom_right))

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return bilinear weights in the order of ``rows``."""
        (left, right), (top, bottom) = self.x.weights, self.y.weights
        return left * top, right * top, left * bottom, right * bottom


def _tent(distance: Tensor) -> Tensor:
    return distance.abs().neg_().add_(1).clamp_(min=0)


def _tent_slope(distance: Tensor) -> Tensor:
    side = distance.floor()
    return (side == -1).to(distance.dtype).sub_((side == 0).to(distance.dtype))


class Chunks:
    """All samples, cut by image, by heads, and into a few queries at a time."""

    def __init__(self, locations: Tensor, shapes: Sequence[tuple[int, int]], dtype: torch.dtype):
        _, self._queries, self._heads, levels, points, _ = locations.shape
        self._locations = locations
        self._pixels = sum(height * width for height, width in shapes)
        room = max(1, _CHUNK_SAMPLES // (levels * points))
        self._length = max(1, min(self._queries, room))
        self._together = max(1, min(self._heads, room // max(1, self._queries)))
        lattice = Lattice.of(shapes, points, dtype)
        self._lattice = lattice.repeated(self._length * self._together)

    def heads(self) -> Iterator[tuple[int, slice]]:
        """Iterate over every image and the heads that share chunks."""
        for image in range(self._locations.shape[0]):
            for head in range(0, self._heads, self._together):
                yield image, slice(head, min(head + self._together, self._heads))

    def of(self, image: int, heads: slice) -> Iterator[tuple[slice, Corners]]:
        """Iterate over the chunks of some heads: which queries, and their corners.

        Several heads have one chunk, whose queries are those of one head after another.
        """
        for start in range(0, self._queries, self._length):
            part = slice(start, min(start + self._length, self._queries))
            local = head_by_head(nan_if_infinite(self._locations[image, part, heads]))
            local = local.to(self._lattice.width.dtype)
            lattice = self._lattice.narrowed(len(local))
            if self._together > 1:
                first = torch.arange(heads.stop - heads.start, dtype=torch.int32) * self._pixels
                starts = first.repeat_interleave(part.stop - start)[:, None]
                lattice = lattice._replace(start=lattice.start + starts)
            yield part, Corners.of(local.flatten(1, 2).contiguous(), lattice)


def head_by_head(tensor: Tensor) -> Tensor:
    """Return (length, heads, ...) as (heads * length, ...)."""
    return tensor.transpose(0, 1).flatten(0, 1)


def attend(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Return the weighted sum of samples."""
    dtype = accumulation_dtype(value.dtype)
    output = value.new_empty((*locations.shape[:3], value.shape[-1]))
    chunks = Chunks(locations, shapes, dtype)
    for image, heads in chunks.heads():
        table = head_by_head(value[image, :, heads]).to(dtype).contiguous()
        for part, corners in chunks.of(image, heads):
            weight = head_by_head(weights[image, part, heads]).to(dtype).flatten(1).contiguous()
            total: Tensor | None = None
            for rows, corner in zip(corners.rows, corners.weights(), strict=True):
                bag = F.embedding_bag(
                    rows, table, per_sample_weights=corner.mul_(weight), mode="sum"
                )
                total = bag if total is None else total.add_(bag)
            assert total is not None
            put_heads(output[image, part, heads], total)
    return output.flatten(2)


def put_heads(target: Tensor, rows: Tensor) -> None:
    """Write rows of one head after another to (length, heads, ...)."""
    target.copy_(rows.unflatten(0, (target.shape[1], -1)).transpose(0, 1))


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
    """Return the gradients of value, locations and weights; those that nobody needs are empty."""
    dtype = accumulation_dtype(value.dtype)
    grad_value, grad_locations, grad_weights = empty_gradients(
        value, locations, weights, need_value=need_value, need_samples=need_samples
    )
    grad = grad.unflatten(-1, value.shape[-2:])
    chunks = Chunks(locations, shapes, dtype)
    for image, heads in chunks.heads():
        gradient = head_by_head(grad[image, :, heads]).to(dtype).contiguous()
        table = head_by_head(value[image, :, heads]).to(dtype).contiguous()
        samples = _Samples(len(gradient), weights[:1, :1, :1].numel(), dtype)
        done = 0
        for part, corners in chunks.of(image, heads):
            weight = head_by_head(weights[image, part, heads]).to(dtype).flatten(1).contiguous()
            rows = slice(done, done + len(weight))
            done = rows.stop
            if need_value:
                samples.put(rows, corners, weight)
            if need_samples:
                dots = _dots(gradient[rows], table, corners)
                for_locations, for_weights = _of_samples(corners, weight, dots, shapes)
                put_heads(grad_locations[image, part, heads], for_locations)
                put_heads(grad_weights[image, part, heads], for_weights)
        if need_value:
            put_heads(grad_value[image, :, heads], samples.spread(gradient, table, shapes))
    return grad_value, grad_locations, grad_weights


def empty_gradients(
    value: Tensor, locations: Tensor, weights: Tensor, *, need_value: bool, need_samples: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate what :func:`attend_backward` returns."""
    return (
        torch.empty_like(value if need_value else value[:0]),
        torch.empty_like(locations if need_samples else locations[:0]),
        torch.empty_like(weights if need_samples else weights[:0]),
    )


def _dots(gradient: Tensor, table: Tensor, corners: Corners) -> list[Tensor]:
    """Return the dot product of each corner's row with the gradient of its query's output."""
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
    """Return gradients of locations (q, levels, points, 2) and weights (q, levels, points)."""
    (left, right), (top, bottom) = corners.x.weights, corners.y.weights
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
    """The samples of some heads: their first pixel, and what each corner counts."""

    def __init__(self, queries: int, samples: int, dtype: torch.dtype):
        self._pixels = torch.empty((queries, samples), dtype=torch.int32)
        self._weights = torch.empty((4, queries, samples), dtype=dtype)

    def put(self, part: slice, corners: Corners, weight: Tensor) -> None:
        """Store the samples of some queries."""
        self._pixels[part] = corners.rows[0]
        for target, corner in zip(self._weights, corners.weights(), strict=True):
            torch.mul(corner, weight, out=target[part])

    def spread(self, gradient: Tensor, table: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Return the gradient of the table (heads * S, D) from that of the output."""
        sizes = [height * width for height, width in shapes]
        pixels, order = self._pixels.flatten().sort()
        # Where the samples of each pixel begin, and where the last ones end.
        starts = F.pad(pixels.bincount(minlength=len(table)).cumsum(0), (1, 0)).int()
        queries = order.int().div_(self._pixels.shape[1], rounding_mode="floor")
        corners = [
            F.embedding_bag(
                queries,
                gradient,
                starts,
                per_sample_weights=weight.take(order),
                mode="sum",
                include_last_offset=True,
            )
            for weight in self._weights
        ]
        heads = [corner.unflatten(0, (-1, sum(sizes))).split(sizes, dim=1) for corner in corners]
        for level, (height, width) in zip(zip(*heads, strict=True), shapes, strict=True):
            total, right, below, across = (part.unflatten(1, (height, width)) for part in level)
            # The first pixel of a sample holds what belongs to its three neighbours as well.
            total[:, :, 1:] += right[:, :, :-1]
            total[:, 1:] += below[:, :-1]
            total[:, 1:, 1:] += across[:, :-1, :-1]
        return corners[0]
