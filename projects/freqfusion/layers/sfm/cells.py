"""The mapping phi(m) = m + d(m) between the nodes of its lattice, cell by cell.

With (u, v) in [0, 1] the place within a cell, the displacement of a cell is::

    d(u, v) = d00 + u * dx + v * dy + t(u, v) * dxy

``t = u * v`` makes it bilinear; ``t = max(u + v - 1, 0)`` linear on each of the two triangles
(00, 01, 10) and (11, 10, 01) of the cell. Both agree with the nodes.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

CellInterpolation = Literal["bilinear", "barycentric"]


class Jacobian(NamedTuple):
    """The derivative of phi: ``xy`` is that of its x coordinate in y. Tensors of one shape."""

    xx: Tensor
    xy: Tensor
    yx: Tensor
    yy: Tensor

    @property
    def determinant(self) -> Tensor:
        """Positive where the mapping does not fold."""
        return self.xx * self.yy - self.xy * self.yx

    def solve(self, x: Tensor, y: Tensor, *, least: float) -> tuple[Tensor, Tensor]:
        """Multiply (x, y) with the inverse; zero where the determinant is below ``least``."""
        determinant = self.determinant
        scale = torch.where(determinant >= least, 1 / determinant, 0)
        return (self.yy * x - self.xy * y) * scale, (self.xx * y - self.yx * x) * scale


class Cells:
    """Coefficients of the displacement in all cells of a lattice of at least one node.

    An axis of one node gets a second one with the same displacement, so that there is a cell.

    Args:
        displacement: (B, 2, H, W), x then y, in pixels; gradients flow into it.
    """

    def __init__(self, displacement: Tensor):
        for dim in (-2, -1):
            if displacement.shape[dim] == 1:
                displacement = torch.cat([displacement, displacement], dim)
        base = displacement[..., :-1, :-1]
        right = displacement[..., :-1, 1:] - base
        below = displacement[..., 1:, :-1] - base
        twist = displacement[..., 1:, 1:] - base - right - below
        self.table = torch.cat([base, right, below, twist], dim=1)

    @classmethod
    def of(cls, table: Tensor) -> "Cells":
        """The cells that have this ``table``, the coefficients (B, 8, rows, columns) of others."""
        cells = cls.__new__(cls)
        cells.table = table
        return cells

    @property
    def rows(self) -> int:
        """Number of cells from top to bottom."""
        return self.table.shape[-2]

    @property
    def columns(self) -> int:
        """Number of cells from left to right."""
        return self.table.shape[-1]

    def at(self, row: Tensor, column: Tensor) -> tuple[Tensor, ...]:
        """The eight coefficients, each (B, P): x and y of d00, dx, dy and dxy of cells (B, P)."""
        index = (row * self.columns + column)[:, None].expand(-1, self.table.shape[1], -1)
        return self.table.flatten(2).gather(2, index).unbind(1)

    def locate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the cells around points, the outermost ones for points beyond."""
        # Limited as whole numbers: what is not a number must not become an index.
        return y.floor().long().clamp(0, self.rows - 1), x.floor().long().clamp(0, self.columns - 1)

    def evaluate(
        self, x: Tensor, y: Tensor, interpolation: CellInterpolation = "bilinear"
    ) -> tuple[Tensor, Tensor, Jacobian]:
        """Displacement in x and y at points (B, P) in pixels, and the Jacobian of phi there."""
        row, column = self.locate(x, y)
        base_x, base_y, right_x, right_y, below_x, below_y, twist_x, twist_y = self.at(row, column)
        u, v = x - column, y - row
        if interpolation == "bilinear":
            twist, along_u, along_v = u * v, v, u
        else:
            twist = (u + v - 1).clamp(min=0)
            along_u = along_v = (twist > 0).to(x.dtype)
        jacobian = Jacobian(
            xx=1 + right_x + along_u * twist_x,
            xy=below_x + along_v * twist_x,
            yx=right_y + along_u * twist_y,
            yy=1 + below_y + along_v * twist_y,
        )
        displacement_x = base_x + u * right_x + v * below_x + twist * twist_x
        displacement_y = base_y + u * right_y + v * below_y + twist * twist_y
        return displacement_x, displacement_y, jacobian
