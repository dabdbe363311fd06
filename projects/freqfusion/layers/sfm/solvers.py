"""Two ways to solve phi(m) = o: safeguarded Newton steps, and a search in all triangles around.

Points are pixels, (B, 2, P), x then y; the goals o lie within the lattice.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from freqfusion.layers.sfm.cells import Cells, cross

# A cell that has been squeezed to less of its area, or folded, is not trusted.
LEAST_DETERMINANT = 1e-2
_DAMPING = 0.4
_LONGEST_STEP = 1.5
# Points solved together on a CPU: enough to outweigh the start of an operation, and few enough for
# their tensors to stay in the cache.
_BLOCK = 1 << 15


def newton(cells: Cells, goals: Tensor, steps: int) -> Tensor:
    """The best of ``steps`` iterates for every point.

    Newton's steps where they can be trusted; otherwise damped steps along the error, which contract
    since phi is the gradient of a convex function. On a CPU points are left out once they have
    converged; images, and blocks of their points, are solved one by one.
    """
    if torch.compiler.is_exporting():
        return _newton_in_a_loop(cells, goals, steps)
    if goals.device.type != "cpu" or torch.compiler.is_compiling():
        state, tolerance = _start(goals), _tolerance(cells, goals)
        for _ in range(steps):
            state = _advance(cells, state, tolerance)
        return state.best
    found = torch.empty_like(goals)
    for image in range(goals.shape[0]):
        own = cells.image(image)
        for begin in range(0, goals.shape[2], _BLOCK):
            part = slice(image, image + 1), slice(None), slice(begin, begin + _BLOCK)
            _solve_block(own, goals[part], steps, found[part])
    return found


class _State(NamedTuple):
    """Points being solved.

    ``goals``, iterates ``at`` and the ``best`` of them are (B, 2, P); the squared distances from
    the goal that the best and the last iterates have left are (B, 1, P).
    """

    goals: Tensor
    at: Tensor
    best: Tensor
    least: Tensor
    last: Tensor


def _start(goals: Tensor) -> _State:
    unknown = torch.full_like(goals[:, :1], math.inf)
    return _State(goals, goals, goals, unknown, unknown)


def _solve_block(cells: Cells, goals: Tensor, steps: int, found: Tensor) -> None:
    """Solve points of one image, fewer and fewer of them, and write them to ``found``."""
    state, tolerance = _start(goals), _tolerance(cells, goals)
    left: Tensor | None = None
    for _ in range(steps):
        state = _advance(cells, state, tolerance)
        is_open = state.least[0, 0] > tolerance
        count = int(is_open.count_nonzero())
        if count == 0:
            break
        # Picking points out costs about as much as a step of half of them.
        if 2 * count < len(is_open):
            _store(found, state.best, left)
            kept = is_open.nonzero()[:, 0]
            left = kept if left is None else left[kept]
            state = _State(*(entry.index_select(2, kept) for entry in state))
    _store(found, state.best, left)


def _store(found: Tensor, best: Tensor, places: Tensor | None) -> None:
    if places is None:
        found.copy_(best)
    else:
        found.index_copy_(2, places, best)


def _tolerance(cells: Cells, goals: Tensor) -> float:
    """The squared distance that rounding of the coordinates leaves."""
    distance: float = 2 * torch.finfo(goals.dtype).eps * max(cells.height, cells.width)
    return distance**2


def _newton_in_a_loop(cells: Cells, goals: Tensor, steps: int) -> Tensor:
    """The same as one loop of an exported graph, in which every step would stand otherwise.

    Its body sees sizes only as those of tensors, and the tolerance as one.
    """
    table, last = cells.table, cells.last
    tolerance = (2 * torch.finfo(goals.dtype).eps * (last.max() + 1)) ** 2

    def goes_on(step: Tensor, *state: Tensor) -> Tensor:
        return (step < steps) & (state[2] > tolerance).any()

    def body(step: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        _, *found = _advance(Cells.of(table, last), _State(goals, *state), tolerance)
        return step + 1, *found

    step = torch.zeros((), dtype=torch.int64, device=goals.device)
    # No output of a loop may be one of its inputs.
    _, *start = (tensor.clone() for tensor in _start(goals))
    best: Tensor = torch.while_loop(goes_on, body, (step, *start))[2]
    return best


def _advance(cells: Cells, state: _State, tolerance: float | Tensor) -> _State:
    """Judge the iterates and make the next ones.

    Choices are products with zero and one: a CPU selects by a branch for every point, which takes
    longer than all the arithmetic here.
    """
    goals, at, best, least, last = state
    error, jacobian = cells.evaluate(at, goals)
    squares = error * error
    distance = (squares[:, :1] + squares[:, 1:]).nan_to_num_(nan=math.inf)
    # Below the tolerance nothing is better, so that a point which has converged is left alone and
    # does not depend on how many steps others take.
    distance.clamp_(min=tolerance)
    best = torch.lerp(best, at, _one_if_positive_(least - distance))
    least = torch.minimum(least, distance)
    determinant = jacobian.determinant
    full = jacobian.solve(error, determinant.clamp(min=LEAST_DETERMINANT))
    trusted = torch.minimum(last - distance, determinant - LEAST_DETERMINANT)
    way = torch.lerp(
        _DAMPING * error, full.clamp_(-_LONGEST_STEP, _LONGEST_STEP), _one_if_positive_(trusted)
    )
    # Where the mapping is not a number there is no way to go.
    at = cells.inside(at - way.nan_to_num_(nan=0.0))
    return _State(goals, at, best, least, distance)


def _one_if_positive_(values: Tensor) -> Tensor:
    """In place: one where a value is positive, zero elsewhere and for what is not a number."""
    return values.sign_().clamp_(min=0)


def search(cells: Cells, goals: Tensor, reach: int) -> Tensor:
    """The place in the triangle that holds each goal best, within ``reach`` cells of it.

    Best is the largest smallest barycentric coordinate, which is not negative inside a triangle.
    """
    around = cells.corners(goals)
    at, best = goals, torch.full_like(goals[:, :1], -math.inf)
    for below in range(-reach - 1, reach + 1):
        for right in range(-reach - 1, reach + 1):
            # A cell beyond the border is its neighbour inside: tried twice, to no harm.
            corner = cells.corners(around + around.new_tensor([[right], [below]]))
            for place, inside in _solve_triangles(cells, corner, goals):
                better = inside > best
                at = torch.where(better, corner + place, at)
                best = torch.where(better, inside, best)
    return cells.inside(at)


def _solve_triangles(cells: Cells, corner: Tensor, goals: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For both triangles of cells: the place (u, v) of the goal, its least barycentric coordinate.

    The coordinate is minus infinity for a triangle without area.
    """
    base, right, below, twist = cells.at(corner)
    offset = (goals - corner) - base
    found = []
    for is_second in (False, True):
        if is_second:
            right, below, offset = right + twist, below + twist, offset + twist
        determinant = cross(right, below)
        u, v = cross(offset, below) / determinant, cross(right, offset) / determinant
        least = torch.minimum(1 - u, 1 - v) if is_second else torch.minimum(u, v)
        least = torch.minimum(least, u + v - 1 if is_second else 1 - u - v)
        least = torch.where(determinant.abs() > 1e-6, least, -math.inf)
        found.append((torch.cat([u, v], dim=1), least))
    return found
