"""Inverting displacements: both solvers, gradients, symmetries, any size, clear errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import demodulation as oracle
from sfm_displacements import KINDS, displacement_of

from freqfusion.layers.sampling import lattice_points, to_normalized, to_pixels
from freqfusion.layers.sfm import inversion
from freqfusion.layers.sfm.inversion import Cells, invert_displacement

SOLVERS = ("newton", "search")


def forward(displacement, points, align_corners=False):
    """phi by grid_sample, an implementation that shares no code with the inverse."""
    size = displacement.shape[-2:]
    shift = torch.nn.functional.grid_sample(
        displacement, points, padding_mode="border", align_corners=align_corners
    )
    pixels = to_pixels(points, size, align_corners) + shift.permute(0, 2, 3, 1)
    return to_normalized(pixels, size, align_corners)


def distance(displacement, actual, expected):
    """Largest distance of normalised points, in pixels."""
    size = displacement.shape[-2:]
    return (to_pixels(actual, size) - to_pixels(expected, size)).norm(dim=-1).max().item()


def test_by_hand():
    """A row of nodes at 0, 1.5, 2: place 0.75 is half way to node 1, place 1.75 half way to 2."""
    displacement = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)
    goals = to_normalized(torch.tensor([[0.75, 0.0], [1.75, 0.0], [0.0, 0.0]]), (1, 3))
    for solver in SOLVERS:
        found, residual = invert_displacement(displacement, goals.view(1, 1, 3, 2), solver=solver)
        pixels = to_pixels(found, (1, 3))[0, 0]
        torch.testing.assert_close(pixels, torch.tensor([[0.5, 0.0], [1.5, 0.0], [0.0, 0.0]]))
        assert residual.shape == (1, 1, 3)
        assert residual.max() <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fwhm", [3.0, 6.0])
def test_residuals(kind, fwhm):
    """Invariant 6: at the bound 2, search within 1e-3 px and Newton's 20 steps within 0.05 px.

    Newton's residual is measured once more by grid_sample.
    """
    displacement = displacement_of(kind, (64, 80), fwhm=fwhm, batch=4, dtype=torch.float32)
    found, residual = invert_displacement(displacement, solver="newton")
    assert residual.max() <= 0.05
    goals = lattice_points((64, 80)).expand_as(found)
    again = forward(displacement, found)
    assert distance(displacement, again, goals) <= 0.05
    _, residual = invert_displacement(displacement, solver="search")
    assert residual.max() <= 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_search_equals_trying_all_triangles(kind):
    displacement = displacement_of(kind, (6, 7))
    goals = torch.rand(1, 3, 5, 2, dtype=torch.float64) * torch.tensor([6.0, 5.0])
    expected = oracle.invert_by_trial(displacement[0].numpy(), goals.view(-1, 2).numpy())
    points = to_normalized(goals, (6, 7))
    found, _ = invert_displacement(displacement, points, solver="search")
    np.testing.assert_allclose(to_pixels(found, (6, 7)).view(-1, 2), expected, atol=1e-9)


@settings(max_examples=30)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    out_height=st.integers(1, 30),
    out_width=st.integers(1, 30),
    solver=st.sampled_from(SOLVERS),
    align_corners=st.booleans(),
    seed=st.integers(0, 100),
)
def test_any_size(height, width, out_height, out_width, solver, align_corners, seed):
    """In double precision; Newton's residual is measured once more by grid_sample."""
    displacement = displacement_of("noise", (height, width), seed=seed)
    out_size = (out_height, out_width)
    found, residual = invert_displacement(
        displacement, out_size=out_size, solver=solver, align_corners=align_corners
    )
    assert found.shape == (1, *out_size, 2)
    assert residual.shape == (1, *out_size)
    assert residual.dtype == torch.float64
    assert residual.max() <= 1e-6
    if solver == "newton":
        goals = lattice_points(out_size, align_corners, dtype=torch.float64)
        again = forward(displacement, found, align_corners)
        size = (height, width)
        error = to_pixels(again, size, align_corners) - to_pixels(goals, size, align_corners)
        assert error.abs().max() <= 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_continued_beyond_the_border(solver):
    """Far outside, the result is that at the border plus the way to it."""
    displacement = displacement_of("smooth", (8, 10))
    inside = torch.tensor([[0.0, 3.3], [9.0, 6.6], [4.2, 0.0], [4.2, 7.0]], dtype=torch.float64)
    way = torch.tensor([[-2.0, 0], [3, 0], [0, -4], [0, 5]], dtype=torch.float64)
    pixels = []
    for goals in (inside, inside + way):
        points = to_normalized(goals, (8, 10)).view(1, 1, 4, 2)
        pixels.append(
            to_pixels(invert_displacement(displacement, points, solver=solver)[0], (8, 10))
        )
    torch.testing.assert_close(pixels[1], pixels[0] + way)


@pytest.mark.parametrize("change", ["right to left", "upside down", "transposed"])
def test_symmetries(change):
    """Invariant 15: the inverse of the mirrored mapping is the mirrored inverse, 1e-3.

    Of Newton's, whose cells have no diagonals.
    """
    displacement = displacement_of("smooth", (24, 30), dtype=torch.float32)
    found, _ = invert_displacement(displacement)
    if change == "transposed":
        other, _ = invert_displacement(displacement.transpose(2, 3).flip(1))
        other = other.transpose(1, 2).flip(-1)
    else:
        dim = 3 if change == "right to left" else 2
        signs = torch.tensor([-1.0, 1.0] if dim == 3 else [1.0, -1.0])
        other, _ = invert_displacement(displacement.flip(dim) * signs.view(1, 2, 1, 1))
        other = other.flip(dim - 1) * signs
    assert distance(displacement, other, found) <= 1e-3


def test_points_do_not_depend_on_the_points_solved_with_them(monkeypatch):
    """Solved in blocks of 50 points, or all of them to the last step as in an exported graph."""
    displacement = displacement_of("smooth", (20, 26), fwhm=6.0)
    expected, _ = invert_displacement(displacement)
    monkeypatch.setattr(inversion, "_BLOCK", 50)
    found, _ = invert_displacement(displacement)
    assert distance(displacement, found, expected) <= 1e-10
    monkeypatch.setattr(inversion.torch.compiler, "is_compiling", lambda: True)
    found, _ = invert_displacement(displacement)
    assert distance(displacement, found, expected) <= 1e-10


def test_work_goes_down_with_the_points_that_are_left(monkeypatch):
    evaluated = []

    def count(cells, points, *arguments):
        evaluated.append(points.shape[2])
        return evaluate(cells, points, *arguments)

    evaluate = Cells.evaluate
    monkeypatch.setattr(Cells, "evaluate", count)
    invert_displacement(displacement_of("smooth", (32, 32), dtype=torch.float32))
    assert sum(evaluated) < 6 * 32 * 32
    assert evaluated[0] == 32 * 32 > evaluated[-2]


@pytest.mark.parametrize("solver", SOLVERS)
def test_implicit_gradients_are_those_of_differences(solver):
    """Invariant 14: in every entry of the displacement and of the points."""
    displacement = displacement_of("smooth", (4, 5)).requires_grad_()
    pixels = 0.3 + 2.4 * torch.rand(1, 2, 2, 2, dtype=torch.float64, generator=seeded())
    points = to_normalized(pixels, (4, 5)).requires_grad_()

    def run(displacement, points):
        return invert_displacement(displacement, points, solver=solver, grad="implicit")[0]

    assert torch.autograd.gradcheck(run, (displacement, points), eps=1e-7, atol=1e-5, rtol=1e-4)
    values, residual = invert_displacement(displacement, points, solver=solver)
    assert torch.equal(values, run(displacement, points).detach())
    assert not values.requires_grad
    assert not residual.requires_grad


def test_folded_lattices_give_finite_results():
    """Nodes exchanged by violent displacements: no answer is right, none may be infinite."""
    displacement = (4 * torch.randn(1, 2, 12, 12, generator=seeded())).requires_grad_()
    for solver in SOLVERS:
        found, residual = invert_displacement(displacement, solver=solver, grad="implicit")
        (gradient,) = torch.autograd.grad(found.sum(), displacement)
        assert all(tensor.isfinite().all() for tensor in (found, residual, gradient))
        inside = to_pixels(found.detach(), (12, 12))
        assert inside.min() >= -1e-5
        assert inside.max() <= 11 + 1e-5


def test_not_a_number():
    """Newton has no answer for that place and goes on; the search says what is wrong."""
    displacement = torch.zeros(1, 2, 6, 6)
    displacement[0, 0, 2, 2] = float("nan")
    found, residual = invert_displacement(displacement)
    assert found.isfinite().all()
    assert residual.isnan().any()
    with pytest.raises(ValueError, match="must be finite"):
        invert_displacement(displacement, solver="search")


class Inversion(torch.nn.Module):
    def forward(self, displacement):
        return invert_displacement(displacement)[0]


def test_exported_form_is_one_loop_of_the_graph():
    """The same positions at other sizes, taller or wider, with damped and with full steps."""

    def smooth(height, width):
        rough = 0.5 * torch.randn(2, 2, 5, 5, generator=seeded(height))
        return torch.nn.functional.interpolate(rough, size=(height, width), mode="bicubic")

    dynamic = torch.export.Dim.DYNAMIC
    program = torch.export.export(
        Inversion(),
        (smooth(20, 30),),
        dynamic_shapes=({2: dynamic, 3: dynamic},),
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len([name for name in called if "while_loop" in name]) == 1
    run = program.module()
    for size in ((31, 17), (9, 40)):
        expected, _ = invert_displacement(smooth(*size))
        torch.testing.assert_close(run(smooth(*size)), expected, atol=1e-6, rtol=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
