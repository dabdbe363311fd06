"""Where a mapping has put each place: solve phi(m) = m + d(m) = o for m on a deformed lattice.

The method realises its non-uniform upsampling with qhull's triangulation of the scattered sample
positions (Chen et al., Spatial Frequency Modulation, TPAMI 2025, Eq. 17/18 by its model card). The
positions form a deformed regular lattice, so here the lattice is inverted instead, for whole
batches, on any device and at every place; both solvers are our design.

Between the nodes of its lattice the mapping is defined cell by cell. With (u, v) in [0, 1] the
place within a cell it is::

    phi(u, v) = corner + base + u * right + v * below + t(u, v) * twist

``t = u * v`` makes it bilinear; ``t = max(u + v - 1, 0)`` linear on each of the two triangles
(00, 01, 10) and (11, 10, 01) of the cell. Both agree with the nodes.

Inside, points, goals and vectors are pixels, (B, 2, P), x then y: both axes in one tensor take half
as many operations as one tensor for each, and operations are what a CPU spends its time on here.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_map, check_positive
from freqfusion.layers.sampling import (
    CellInterpolation,
    check_points,
    lattice_points_of,
    to_normalized,
    to_pixels,
    wide_dtype,
)

InverseSolver = Literal["newton", "search"]
InverseGradient = Literal["values", "implicit"]

# Each solver inverts one interpolant exactly; what is read at the result must use the same.
INTERPOLATION_OF: dict[InverseSolver, CellInterpolation] = {
    "newton": "bilinear",
    "search": "barycentric",
}
# A cell that has been squeezed to less of its area, or folded, is not trusted.
_LEAST_DETERMINANT = 1e-2
_DAMPING = 0.4
_LONGEST_STEP = 1.5
# Points solved together on a CPU: enough to outweigh the start of an operation, and few enough for
# their tensors to stay in the cache.
_BLOCK = 1 << 15


def invert_displacement(
    displacement: Tensor,
    points: Tensor | None = None,
    *,
    out_size: tuple[int, int] | None = None,
    solver: InverseSolver = "newton",
    iters: int = 20,
    align_corners: bool = False,
    grad: InverseGradient = "values",
) -> tuple[Tensor, Tensor]:
    """Find the modulated positions m that are mapped to original positions o.

    Beyond the outermost pixel centres the mapping is continued by the displacement at the border,
    so that every place has an answer.

    Args:
        displacement: (B, 2, H, W), x then y, in pixels of its own lattice.
        points: (B, Ho, Wo, 2), the normalised positions o; by default the pixel centres of a map
            of ``out_size``.
        out_size: (Ho, Wo), by default (H, W).
        solver: ``"newton"``, safeguarded steps on the piecewise-bilinear mapping, or ``"search"``,
            all triangles of the cells within reach, whose work grows with the square of the
            largest displacement; it is meant as the reference.
        iters: Newton steps at most. On a CPU they end when all points have converged.
        align_corners: Meaning of normalised positions, as in ``grid_sample``.
        grad: ``"values"``: the positions are constants. ``"implicit"``: they have the gradients of
            the implicit function theorem in ``displacement`` and ``points``, and zero where the
            mapping has (nearly) folded.

    Returns:
        The normalised positions m (B, Ho, Wo, 2) and the distance of phi(m) from o (B, Ho, Wo) in
        pixels, which has no gradient. Both are float32 (float64 if an argument is).

    Raises:
        ValueError: if the arguments do not fit together.
    """
    check_choice(InverseSolver, solver=solver)
    check_choice(InverseGradient, grad=grad)
    check_positive(iters=iters)
    points = _check(displacement, points, out_size, align_corners)
    dtype = wide_dtype(points, displacement)
    displacement, points = displacement.to(dtype), points.to(dtype)
    if grad == "values":
        displacement, points = displacement.detach(), points.detach()
    height, width = displacement.shape[-2:]

    cells = Cells(displacement)
    wanted = to_pixels(points, (height, width), align_corners).flatten(1, 2).transpose(1, 2)
    goals = cells.inside(wanted).contiguous()
    with torch.no_grad():
        if solver == "newton":
            at = newton(cells, goals, iters)
        else:
            at = search(cells, goals, _reach(displacement))
    error, jacobian = cells.evaluate(at, goals, INTERPOLATION_OF[solver])
    error_x, error_y = error.detach().unbind(1)
    residual = (error_x * error_x + error_y * error_y).sqrt()
    if grad == "implicit":
        # One more Newton step that is zero but for its gradient: the Jacobian is held constant.
        constant = Jacobian(*(column.detach() for column in jacobian))
        determinant = constant.determinant
        step = constant.solve(error, determinant.clamp(min=_LEAST_DETERMINANT))
        step = torch.where(determinant >= _LEAST_DETERMINANT, step, 0)
        at = at - (step - step.detach())
    pixels = (at + (wanted - goals)).transpose(1, 2)
    normalized = to_normalized(pixels, (height, width), align_corners)
    return normalized.view_as(points), residual.view(points.shape[:-1])


def _reach(displacement: Tensor) -> int:
    """Return the number of cells within which the search must look."""
    largest = displacement.abs().max().item()
    if not math.isfinite(largest):
        raise ValueError("displacement must be finite, got infinite numbers or NaN")
    return min(math.ceil(largest), max(displacement.shape[-2:]))


def _check(
    displacement: Tensor,
    points: Tensor | None,
    out_size: tuple[int, int] | None,
    align_corners: bool,
) -> Tensor:
    """Refuse what does not fit; return the points (B, Ho, Wo, 2)."""
    check_map("displacement", displacement, 2)
    if points is None:
        height, width = displacement.shape[-2:] if out_size is None else out_size
        size = (height, width)
        check_positive(**{"the height of out_size": size[0], "the width of out_size": size[1]})
        return lattice_points_of(displacement, size, align_corners)
    if out_size is not None:
        raise ValueError("give points or out_size, not both: the points have a size of their own")
    check_points(points, displacement=displacement)
    return points


class Jacobian(NamedTuple):
    """The derivatives of phi (B, 2, P) in x and in y."""

    along_x: Tensor
    along_y: Tensor

    @property
    def determinant(self) -> Tensor:
        """Return (B, 1, P), positive where the mapping does not fold."""
        return _cross(self.along_x, self.along_y)

    def solve(self, vector: Tensor, determinant: Tensor) -> Tensor:
        """Multiply a vector (B, 2, P) by the inverse, for a determinant that is not zero."""
        adjugate = [_cross(vector, self.along_y), _cross(self.along_x, vector)]
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
        """Return the cells that have the ``table`` and the ``last`` node of others."""
        cells = cls.__new__(cls)
        cells.table, cells.last, cells._first = table, last, torch.zeros_like(last)
        return cells

    @property
    def height(self) -> int:
        """Return the number of nodes from top to bottom."""
        return self.table.shape[-2]

    @property
    def width(self) -> int:
        """Return the number of nodes from left to right."""
        return self.table.shape[-1]

    def image(self, index: int) -> "Cells":
        """Return the cells of one image, a view with a batch of one."""
        return Cells.of(self.table[index : index + 1], self.last)

    def at(self, corner: Tensor) -> tuple[Tensor, ...]:
        """Read base, right, below and twist, (B, 2, P) each, of the cells at corners (B, 2, P)."""
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
        """Find the corners of the cells around points: for points beyond, of the nearest cells."""
        x, y = points.floor().split(1, dim=1)
        x, y = x.clamp(0, max(self.width - 2, 0)), y.clamp(0, max(self.height - 2, 0))
        return torch.cat([x, y], dim=1)

    def inside(self, points: Tensor) -> Tensor:
        """Move points that lie beyond the lattice to its border."""
        return points.clamp(self._first, self.last)

    def evaluate(
        self, points: Tensor, goals: Tensor, interpolation: CellInterpolation = "bilinear"
    ) -> tuple[Tensor, Jacobian]:
        """Return phi(points) - goals at points within the lattice, and the Jacobian of phi."""
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


def _cross(first: Tensor, second: Tensor) -> Tensor:
    """Return the determinant (B, 1, P) of two vectors (B, 2, P) as columns."""
    (first_x, first_y), (second_x, second_y) = first.split(1, dim=1), second.split(1, dim=1)
    return torch.addcmul(first_x * second_y, first_y, second_x, value=-1)


def _continued(nodes: Tensor, dim: int) -> Tensor:
    """Add a node at the end of an axis, on a line with the last two; equal to a single one."""
    last = nodes.narrow(dim, -1, 1)
    before = nodes.narrow(dim, max(nodes.shape[dim] - 2, 0), 1)
    return torch.cat([nodes, 2 * last - before], dim)


def newton(cells: Cells, goals: Tensor, steps: int) -> Tensor:
    """Return the best of ``steps`` iterates for every point.

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
    """Return the squared distance that rounding of the coordinates leaves."""
    distance: float = 2 * torch.finfo(goals.dtype).eps * max(cells.height, cells.width)
    return distance**2


def _newton_in_a_loop(cells: Cells, goals: Tensor, steps: int) -> Tensor:
    """Solve in one loop of an exported graph, in which every step would stand otherwise.

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
    full = jacobian.solve(error, determinant.clamp(min=_LEAST_DETERMINANT))
    trusted = torch.minimum(last - distance, determinant - _LEAST_DETERMINANT)
    way = torch.lerp(
        _DAMPING * error, full.clamp_(-_LONGEST_STEP, _LONGEST_STEP), _one_if_positive_(trusted)
    )
    # Where the mapping is not a number there is no way to go.
    at = cells.inside(at - way.nan_to_num_(nan=0.0))
    return _State(goals, at, best, least, distance)


def _one_if_positive_(values: Tensor) -> Tensor:
    """Set to one where a value is positive, to zero elsewhere and for what is not a number."""
    return values.sign_().clamp_(min=0)


def search(cells: Cells, goals: Tensor, reach: int) -> Tensor:
    """Find the place in the triangle that holds each goal best, within ``reach`` cells of it.

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
    """Find the goal's place (u, v) and least barycentric coordinate in both triangles of cells.

    The coordinate is minus infinity for a triangle without area.
    """
    base, right, below, twist = cells.at(corner)
    offset = (goals - corner) - base
    found = []
    for is_second in (False, True):
        if is_second:
            right, below, offset = right + twist, below + twist, offset + twist
        determinant = _cross(right, below)
        u, v = _cross(offset, below) / determinant, _cross(right, offset) / determinant
        least = torch.minimum(1 - u, 1 - v) if is_second else torch.minimum(u, v)
        least = torch.minimum(least, u + v - 1 if is_second else 1 - u - v)
        least = torch.where(determinant.abs() > 1e-6, least, -math.inf)
        found.append((torch.cat([u, v], dim=1), least))
    return found
