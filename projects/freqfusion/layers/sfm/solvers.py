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
    rounding = 2 * torch.finfo(goal_x.dtype).eps
    endless = torch.full_like(goal_x, math.inf)
    state = (goal_x, goal_y, goal_x, goal_y, endless, endless)
    if torch.compiler.is_exporting():
        return _newton_in_a_loop(cells, goal_x, goal_y, limits, steps, rounding, state)
    tolerance = rounding * (max(limits) + 1)
    may_stop = goal_x.device.type == "cpu" and not torch.compiler.is_compiling()
    for step in range(steps):
        state = _newton_step(
            cells, goal_x, goal_y, limits, tolerance, state, is_damped=step < _DAMPED_STEPS
        )
        if may_stop and bool((state[4] <= tolerance).all()):
            break
    return state[2], state[3]


# x, y, the best x and y so far, their error, and the error before the last step.
_State = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _newton_step(
    cells: Cells,
    goal_x: Tensor,
    goal_y: Tensor,
    limits: tuple[int, int],
    tolerance: float | Tensor,
    state: _State,
    *,
    is_damped: bool | Tensor,
) -> _State:
    x, y, best_x, best_y, best, last = state
    shift_x, shift_y, jacobian = cells.evaluate(x, y)
    error_x, error_y = (x - goal_x) + shift_x, (y - goal_y) + shift_y
    error = distance(error_x, error_y)
    better = (error < best) & (best > tolerance)
    best_x, best_y = torch.where(better, x, best_x), torch.where(better, y, best_y)
    best = torch.where(better, error, best)
    step_x, step_y = _DAMPING * error_x, _DAMPING * error_y
    if is_damped is not True:
        full = jacobian.solve(error_x, error_y, least=LEAST_DETERMINANT)
        trusted = (error < last) & (jacobian.determinant > LEAST_DETERMINANT)
        if isinstance(is_damped, Tensor):
            trusted = trusted & ~is_damped
        newton_x, newton_y = (axis.clamp(-_LONGEST_STEP, _LONGEST_STEP) for axis in full)
        step_x = torch.where(trusted, newton_x, step_x)
        step_y = torch.where(trusted, newton_y, step_y)
    x, y = (x - step_x).clamp(0, limits[0]), (y - step_y).clamp(0, limits[1])
    return x, y, best_x, best_y, best, error


def distance(x: Tensor, y: Tensor) -> Tensor:
    """The length of the vectors (x, y)."""
    if torch.compiler.is_exporting():  # exporters have no hypot
        return (x * x + y * y).sqrt()
    return torch.hypot(x, y)


def _newton_in_a_loop(
    cells: Cells,
    goal_x: Tensor,
    goal_y: Tensor,
    limits: tuple[int, int],
    steps: int,
    rounding: float,
    state: _State,
) -> tuple[Tensor, Tensor]:
    """The same as one loop of an exported graph, in which every step would stand otherwise.

    Its body sees sizes only as those of tensors.
    """
    table = cells.table
    sides = [goal_x.new_full((), limit) for limit in limits]
    tolerance = rounding * (torch.maximum(sides[0], sides[1]) + 1)

    def goes_on(step: Tensor, *state: Tensor) -> Tensor:
        return (step < steps) & (state[4] > tolerance).any()

    def body(step: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        x, y, best_x, best_y, best, last = state
        cells = Cells.of(table)
        found = _newton_step(
            cells,
            goal_x,
            goal_y,
            (cells.columns, cells.rows),
            tolerance,
            (x, y, best_x, best_y, best, last),
            is_damped=step < _DAMPED_STEPS,
        )
        return step + 1, *found

    step = torch.zeros((), dtype=torch.int64, device=goal_x.device)
    # No output of a loop may be one of its inputs.
    carried = (step, *(tensor.clone() for tensor in state))
    _, _, _, best_x, best_y, *_ = torch.while_loop(goes_on, body, carried)
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
