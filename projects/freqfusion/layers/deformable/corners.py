"""Where a sample lies between four pixels, and what each of them counts."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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
        """The lattice of one query, for a table of one row per pixel."""

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
        """The same for several queries, (queries, levels * points)."""
        return Lattice(*(field.repeat(queries, 1) for field in self))

    def narrowed(self, queries: int) -> "Lattice":
        """The part of the first queries, views."""
        return Lattice(*(field[:queries] for field in self))


class Axis(NamedTuple):
    """A sample on one axis: its distances from a pair of neighbouring pixels.

    The pair always lies inside the map. A pixel counts ``max(0, 1 - distance)``; this is bilinear
    interpolation with zeros outside without asking where the map ends.
    """

    pixel: Tensor  # the first one of the pair
    to_first: Tensor
    to_second: Tensor

    @classmethod
    def of(cls, coordinate: Tensor, size: Tensor, last: Tensor, step: Tensor) -> "Axis":
        """Coordinates in [0, 1] on an axis of ``size`` pixels."""
        position = (coordinate * size).sub_(0.5)
        # What NaN becomes as an integer is not defined.
        pixel = torch.minimum(position, last).clamp_(min=0).nan_to_num_(nan=0.0).int()
        to_first = position.sub_(pixel.to(position.dtype))
        return cls(pixel, to_first, to_first - step)

    def weights(self) -> tuple[Tensor, Tensor]:
        """How much each pixel of the pair counts."""
        return _tent(self.to_first), _tent(self.to_second)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the weights; at a pixel's centre, those towards the right."""
        return _tent_slope(self.to_first), _tent_slope(self.to_second)


class Corners(NamedTuple):
    """The four pixels around each sample, all (queries, levels * points)."""

    x: Axis
    y: Axis
    rows: tuple[Tensor, Tensor, Tensor, Tensor]  # top left, top right, bottom left, bottom right

    @classmethod
    def of(cls, locations: Tensor, lattice: Lattice) -> "Corners":
        """The corners of ``locations`` (queries, levels * points, 2)."""
        x = Axis.of(locations[..., 0], lattice.width, lattice.last_left, lattice.right)
        y = Axis.of(locations[..., 1], lattice.height, lattice.last_top, lattice.below)
        top_left = y.pixel * lattice.line + x.pixel + lattice.start
        top_right = top_left + lattice.step_right
        bottom_left = top_left + lattice.step_below
        bottom_right = top_right + lattice.step_below
        return cls(x, y, (top_left, top_right, bottom_left, bottom_right))

    def weights(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bilinear weights in the order of ``rows``."""
        (left, right), (top, bottom) = self.x.weights(), self.y.weights()
        return left * top, right * top, left * bottom, right * bottom


def _tent(distance: Tensor) -> Tensor:
    return distance.abs().neg_().add_(1).clamp_(min=0)


def _tent_slope(distance: Tensor) -> Tensor:
    side = distance.floor()
    return (side == -1).to(distance.dtype).sub_((side == 0).to(distance.dtype))
