"""Derivatives in both modes and the transforms of torch.func: right numbers, or an error."""

import layer_cases
import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, jvp, vmap

# What uses no grid_sample of torch.
OURS = ("reassemble", "local_similarity", "invert_displacement", "CarafeUpsampling")
NAMES = [*layer_cases.FUNCTIONS, *layer_cases.MODULES]


def energy(function):
    """The sum of the squares of everything that comes out."""
    return lambda *given: sum(output.square().sum() for output in function(*given))


def noise_like(tensors):
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(t.shape, dtype=t.dtype, generator=generator) for t in tensors]


def differences(function, tensors, tangents, step=1e-6):
    """Central differences along the tangents."""
    ends = []
    for sign in (1, -1):
        moved = [t + sign * step * d for t, d in zip(tensors, tangents, strict=True)]
        ends.append(function(*moved))
    return [(after - before) / (2 * step) for after, before in zip(*ends, strict=True)]


def unless_unknown_to_torch(name, compute):
    """What is computed; None where torch has no such derivative of its grid_sample.

    No version has it in forward mode, and the oldest ones have no second derivative.
    """
    try:
        return compute()
    except RuntimeError as error:
        if "grid_sampler_2d" not in str(error) or name in OURS:
            raise
        return None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "invert_displacement"])
def test_gradients_are_those_of_differences(name):
    """Of first order, and of second order where torch has it; the inverse is piecewise smooth."""
    function, tensors = layer_cases.as_function(name)
    leaves = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    unless_unknown_to_torch(
        name, lambda: torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode_is_right_or_refused(name):
    """By torch.func and by dual numbers; torch has no rule for samples of grid_sample."""
    function, tensors = layer_cases.as_function(name)
    tangents = noise_like(tensors)

    def by_dual_numbers():
        with forward_ad.dual_level():
            pairs = zip(tensors, tangents, strict=True)
            found = function(*(forward_ad.make_dual(*pair) for pair in pairs))
            return [forward_ad.unpack_dual(output).tangent for output in found]

    expected = differences(function, tensors, tangents)
    for compute in (lambda: jvp(function, (*tensors,), (*tangents,))[1], by_dual_numbers):
        found = unless_unknown_to_torch(name, compute)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_gradients_are_those_of_autograd(name):
    function, tensors = layer_cases.as_function(name)
    tangents, places = noise_like(tensors), tuple(range(len(tensors)))
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    first = torch.autograd.grad(energy(function)(*leaves), leaves, create_graph=True)
    torch.testing.assert_close(grad(energy(function), places)(*tensors), first)

    def along(*given):
        gradients = grad(energy(function), places)(*given)
        return sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))

    def by_autograd():
        product = sum((g * t).sum() for g, t in zip(first, tangents, strict=True))
        return torch.autograd.grad(product, leaves, materialize_grads=True)

    expected = unless_unknown_to_torch(name, by_autograd)
    if expected is not None:
        torch.testing.assert_close(grad(along, places)(*tensors), expected)
        torch.testing.assert_close(torch.autograd.grad(along(*leaves), leaves), expected)


@pytest.mark.parametrize("name", NAMES)
def test_vmap_is_a_loop(name):
    function, tensors = layer_cases.as_function(name)
    noise = noise_like(tensors)
    batches = [torch.stack([t, t + 0.1 * d]) for t, d in zip(tensors, noise, strict=True)]
    if name == "invert_displacement":  # the solver stops when the last point has converged
        with pytest.raises(RuntimeError, match="vmap"):
            vmap(function)(*batches)
        return
    one_by_one = zip(*(function(*(b[i] for b in batches)) for i in (0, 1)), strict=True)
    torch.testing.assert_close(vmap(function)(*batches), [torch.stack(o) for o in one_by_one])


def test_tangents_of_a_gradient_reach_a_backward_pass():
    """Also where the forward pass has been computed before."""
    function, tensors = layer_cases.as_function("reassemble")
    leaves = [tensor.requires_grad_() for tensor in tensors]
    (output,) = function(*leaves)
    values, tangents = noise_like([output]), noise_like([output.detach() * 0])
    with forward_ad.dual_level():
        given = forward_ad.make_dual(values[0], tangents[0])
        found = torch.autograd.grad(output, leaves, given, retain_graph=True)
        moved = [forward_ad.unpack_dual(gradient).tangent for gradient in found]
    torch.testing.assert_close(moved, list(torch.autograd.grad(output, leaves, tangents[0])))
