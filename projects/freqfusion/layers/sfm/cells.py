"""The mapping phi(m) = m + d(m) between the nodes of its lattice, cell by cell.

With (u, v) in [0, 1] the place within a cell, the mapping of a cell is::

    phi(u, v) = corner + base + u * right + v * below + t(u, v) * twist

``t = u * v`` makes it bilinear; ``t = max(u + v - 1, 0)`` linear on each of the two triangles
(00, 01, 10) and (11, 10, 01) of the cell. Both agree with the nodes.

Points and vectors are pixels, (B, 2, P), x then y: both axes in one tensor take half as many
operations as one tensor for each, and operations are what a CPU spends its time on here.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

CellInterpolation = Literal["bilinear", "barycentric"]


class Jacobian(NamedTuple):
    """The derivatives of phi (B, 2, P) in x and in y."""

    along_x: Tensor
    along_y: Tensor

    @property
    def determinant(self) -> Tensor:
        """(B, 1, P), positive where the mapping does not fold."""
        return cross(self.along_x, self.along_y)

    def solve(self, vector: Tensor, determinant: Tensor) -> Tensor:
        """The inverse times a vector (B, 2, P), for a determinant that is not zero."""
        adjugate = [cross(vector, self.along_y), cross(self.along_x, vector)]
        return torch.cat(adjugate, dim=1) / determinant


class Cells:
    """Coefficients of the mapping in all cells of a lattice of at least one node.

    Every node is the first corner of a cell: those of the last row and column reach beyond the
    lattice and continue their neighbours, so that a point on the border has a cell, too.

    Args:
        displacement: (B, 2, H, W), x then y, in pixels; gradients flow into it.
    """

    def __init__(self, displacement: Tensor):
        nodes = _continued(_continued(displacement, -1), -2)
        base = nodes[..., :-1, :-1]
        right = nodes[..., :-1, 1:] - base
        below = nodes[..., 1:, :-1] - base
        twist = nodes[..., 1:, 1:] - nodes[..., 1:, :-1] - right
        one = torch.eye(2, dtype=nodes.dtype, device=nodes.device)[:, :, None, None]
        # A map, so that whoever has the table alone knows the sizes: see `of`.
        self.table = torch.cat([base, right + one[0], below + one[1], twist], dim=1)
        limits = [displacement.new_full((1, 1), size - 1) for size in (self.width, self.height)]
        self.last = torch.cat(limits)
        self._first = torch.zeros_like(self.last)

    @classmethod
    def of(cls, table: Tensor, last: Tensor) -> "Cells":
        """The cells that have this ``table`` and ``last`` node, those of others."""
        cells = cls.__new__(cls)
        cells.table, cells.last, cells._first = table, last, torch.zeros_like(last)
        return cells

    @property
    def height(self) -> int:
        """Number of nodes from top to bottom."""
        return self.table.shape[-2]

    @property
    def width(self) -> int:
        """Number of nodes from left to right."""
        return self.table.shape[-1]

    def image(self, index: int) -> "Cells":
        """The cells of one image, a view with a batch of one."""
        return Cells.of(self.table[index : index + 1], self.last)

    def at(self, corner: Tensor) -> tuple[Tensor, ...]:
        """Base, right, below and twist, (B, 2, P) each, of cells by their corners (B, 2, P)."""
        # Counted in 32 bits, which a CPU does several at a time, and limited as a whole number:
        # what is not a number must not become an index.
        column, row = corner.int().unbind(1)
        index = (row * self.width + column).clamp(0, self.height * self.width - 1).long()
        coefficients = self.table.flatten(2).gather(
            2, index[:, None].expand(-1, self.table.shape[1], -1)
        )
        parts: tuple[Tensor, ...] = coefficients.unflatten(1, (4, 2)).unbind(1)
        return parts

    def corners(self, points: Tensor) -> Tensor:
        """Corners of the cells around points, of those within the lattice for points beyond."""
        x, y = points.floor().split(1, dim=1)
        x, y = x.clamp(0, max(self.width - 2, 0)), y.clamp(0, max(self.height - 2, 0))
        return torch.cat([x, y], dim=1)

    def inside(self, points: Tensor) -> Tensor:
        """Points moved to the border of the lattice if they lie beyond."""
        return points.clamp(self._first, self.last)

    def evaluate(
        self, points: Tensor, goals: Tensor, interpolation: CellInterpolation = "bilinear"
    ) -> tuple[Tensor, Jacobian]:
        """phi(points) - goals at points within the lattice, and the Jacobian of phi there."""
        corner = points.detach().floor()
        base, right, below, twist = self.at(corner)
        u, v = (points - corner).split(1, dim=1)
        # Differences of coordinates come first, so that nothing is lost to large coordinates.
        error = (corner - goals) + base
        if interpolation == "bilinear":
            jacobian = Jacobian(torch.addcmul(right, v, twist), torch.addcmul(below, u, twist))
            return error.addcmul(u, right).addcmul(v, jacobian.along_y), jacobian
        amount = (u + v - 1).clamp(min=0)
        turned = (amount > 0).to(points.dtype) * twist
        error = error.addcmul(u, right).addcmul(v, below).addcmul(amount, twist)
        return error, Jacobian(right + turned, below + turned)


def cross(first: Tensor, second: Tensor) -> Tensor:
    """The determinant (B, 1, P) of two vectors (B, 2, P) as columns."""
    (first_x, first_y), (second_x, second_y) = first.split(1, dim=1), second.split(1, dim=1)
    return torch.addcmul(first_x * second_y, first_y, second_x, value=-1)


def _continued(nodes: Tensor, dim: int) -> Tensor:
    """One more node at the end of an axis, on a line with the last two; equal to a single one."""
    last = nodes.narrow(dim, -1, 1)
    before = nodes.narrow(dim, max(nodes.shape[dim] - 2, 0), 1)
    return torch.cat([nodes, 2 * last - before], dim)
