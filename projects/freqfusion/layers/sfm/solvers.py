"""Two ways to solve phi(m) = o: safeguarded Newton steps, and a search in all triangles around.

Coordinates are pixels, one tensor (B, P) for each axis; the goals o lie within the lattice.
"""

import math

import torch
from torch import Tensor

from freqfusion.layers.sfm.cells import Cells

# A cell that has been squeezed to less of its area, or folded, is not trusted.
LEAST_DETERMINANT = 1e-2
_DAMPED_STEPS = 3
_DAMPING = 0.4
_LONGEST_STEP = 1.5


def newton(
    cells: Cells, goal_x: Tensor, goal_y: Tensor, limits: tuple[int, int], steps: int
) -> tuple[Tensor, Tensor]:
    """The best of ``steps`` iterates for every point (B, P), in pixels.

    Newton's steps where they can be trusted; otherwise damped steps along the error, which contract
    since phi is the gradient of a convex function.
    """
    # What rounding of the coordinates leaves. A point that has come there is left alone, so that
    # it does not depend on how many steps others take.
    tolerance = 2 * torch.finfo(goal_x.dtype).eps * (max(limits) + 1)
    may_stop = goal_x.device.type == "cpu" and not torch.compiler.is_compiling()
    x, y = best_x, best_y = goal_x, goal_y
    best = last = torch.full_like(x, math.inf)
    for step in range(steps):
        shift_x, shift_y, jacobian = cells.evaluate(x, y)
        error_x, error_y = (x - goal_x) + shift_x, (y - goal_y) + shift_y
        error = torch.hypot(error_x, error_y)
        better = (error < best) & (best > tolerance)
        best_x, best_y = torch.where(better, x, best_x), torch.where(better, y, best_y)
        best = torch.where(better, error, best)
        if may_stop and bool((best <= tolerance).all()):
            break
        step_x, step_y = _DAMPING * error_x, _DAMPING * error_y
        if step >= _DAMPED_STEPS:
            full = jacobian.solve(error_x, error_y, least=LEAST_DETERMINANT)
            trusted = (error < last) & (jacobian.determinant > LEAST_DETERMINANT)
            newton_x, newton_y = (axis.clamp(-_LONGEST_STEP, _LONGEST_STEP) for axis in full)
            step_x = torch.where(trusted, newton_x, step_x)
            step_y = torch.where(trusted, newton_y, step_y)
        last = error
        x, y = (x - step_x).clamp(0, limits[0]), (y - step_y).clamp(0, limits[1])
    return best_x, best_y


def search(
    cells: Cells, goal_x: Tensor, goal_y: Tensor, limits: tuple[int, int], reach: int
) -> tuple[Tensor, Tensor]:
    """The place (B, P) in the triangle that holds each goal best, within ``reach`` cells of it.

    Best is the largest smallest barycentric coordinate, which is not negative inside a triangle.
    """
    row, column = cells.locate(goal_x, goal_y)
    x, y = goal_x, goal_y
    best = torch.full_like(x, -math.inf)
    for below in range(-reach - 1, reach + 1):
        for right in range(-reach - 1, reach + 1):
            # A cell beyond the border is its neighbour inside: tried twice, to no harm.
            i = (row + below).clamp(0, cells.rows - 1)
            j = (column + right).clamp(0, cells.columns - 1)
            for u, v, inside in _solve_triangles(cells, i, j, goal_x, goal_y):
                better = inside > best
                x, y = torch.where(better, j + u, x), torch.where(better, i + v, y)
                best = torch.where(better, inside, best)
    return x.clamp(0, limits[0]), y.clamp(0, limits[1])


def _solve_triangles(
    cells: Cells, row: Tensor, column: Tensor, goal_x: Tensor, goal_y: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """For both triangles of cells: the place (u, v) of the goal, its least barycentric coordinate.

    The coordinate is minus infinity for a triangle without area.
    """
    base_x, base_y, right_x, right_y, below_x, below_y, twist_x, twist_y = cells.at(row, column)
    offset_x, offset_y = (goal_x - column) - base_x, (goal_y - row) - base_y
    found = []
    for is_second in (False, True):
        if is_second:
            right_x, right_y = right_x + twist_x, right_y + twist_y
            below_x, below_y = below_x + twist_x, below_y + twist_y
            offset_x, offset_y = offset_x + twist_x, offset_y + twist_y
        determinant = (1 + right_x) * (1 + below_y) - right_y * below_x
        u = ((1 + below_y) * offset_x - below_x * offset_y) / determinant
        v = ((1 + right_x) * offset_y - right_y * offset_x) / determinant
        least = torch.minimum(1 - u, 1 - v) if is_second else torch.minimum(u, v)
        least = torch.minimum(least, u + v - 1 if is_second else 1 - u - v)
        found.append((u, v, torch.where(determinant.abs() > 1e-6, least, -math.inf)))
    return found
