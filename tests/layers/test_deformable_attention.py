"""Deformable attention: numbers, gradients, any sizes, implementations, the layer's start."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import deformable as oracle

from freqfusion.layers import (
    MultiScaleDeformableAttention,
    deformable,
    deformable_attention,
)

SHAPES = [(3, 5), (1, 1), (4, 2)]


def example(
    shapes=SHAPES, *, batch=2, queries=6, heads=2, channels=3, points=2, margin=0.3, **options
):
    """Random arguments that fit together; samples reach ``margin`` outside the maps."""
    options = {"dtype": torch.float64, **options}
    positions = sum(height * width for height, width in shapes)
    size = (batch, queries, heads, len(shapes), points)
    value = torch.randn(batch, positions, heads, channels, **options)
    locations = torch.rand(*size, 2, **{**options, "requires_grad": False})
    locations = locations * (1 + 2 * margin) - margin
    locations.requires_grad_(options.get("requires_grad", False))
    return value, locations, torch.randn(*size, **options)


def gradients(run, inputs, weight):
    return torch.autograd.grad((run(*inputs) * weight).sum(), inputs)


def test_by_hand():
    """A map (1, 2; 4, 8) read at pixel (x, y) = (0.25, 0.5): by columns 2.5 and 5.

    0.75 * 2.5 + 0.25 * 5 = 3.125. At pixel (-0.5, 0), half of the weight is outside: 0.5. The
    second map, a pixel of 10, is read at its centre, and, at the very edge of the image, by half.
    Weights 2, 1, 1, 1: 6.25 + 0.5 + 10 + 5 = 21.75.
    """
    value = torch.tensor([1.0, 2.0, 4.0, 8.0, 10.0]).view(1, 5, 1, 1)
    first = [[0.75 / 2, 1.0 / 2], [0.0, 0.5 / 2]]
    second = [[0.5, 0.5], [0.5, 1.0]]
    locations = torch.tensor([first, second]).view(1, 1, 1, 2, 2, 2)
    weights = torch.tensor([2.0, 1.0, 1.0, 1.0]).view(1, 1, 1, 2, 2)
    out = deformable_attention(value, [(2, 2), (1, 1)], locations, weights)
    assert out.shape == (1, 1, 1)
    assert out.item() == pytest.approx(21.75)


SIZES = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(
    shapes=SIZES,
    batch=st.integers(1, 2),
    queries=st.integers(1, 4),
    heads=st.integers(1, 3),
    channels=st.integers(1, 4),
    points=st.integers(1, 3),
    margin=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_equals_plain_loops(shapes, batch, queries, heads, channels, points, margin):
    sizes = {"batch": batch, "queries": queries, "heads": heads}
    value, locations, weights = example(
        shapes, **sizes, channels=channels, points=points, margin=margin
    )
    expected = oracle.loops(value.numpy(), shapes, locations.numpy(), weights.numpy())
    for form in (deformable_attention, deformable.attend_by_levels):
        actual = form(value, shapes, locations, weights)
        np.testing.assert_allclose(actual, expected, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4),
    queries=st.integers(1, 20),
    points=st.integers(1, 4),
    kernels=st.sampled_from(["auto", "torch"]),
)
def test_gradients_equal_those_of_grid_sample(shapes, queries, points, kernels):
    """For samples inside and outside; all of them, and one alone."""
    inputs = example(shapes, queries=queries, points=points, requires_grad=True)
    weight = torch.randn(2, queries, 6, dtype=torch.float64)
    expected = gradients(lambda v, x, w: oracle.sampled(v, shapes, x, w), inputs, weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREQFUSION_KERNELS", kernels)
        actual = gradients(lambda v, x, w: deformable_attention(v, shapes, x, w), inputs, weight)
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=1e-8)
    for needed, wanted in enumerate(expected):
        some = [t.detach().requires_grad_(i == needed) for i, t in enumerate(inputs)]
        total = (deformable_attention(some[0], shapes, *some[1:]) * weight).sum()
        (alone,) = torch.autograd.grad(total, some[needed])
        torch.testing.assert_close(alone, wanted, atol=1e-10, rtol=1e-8)


def test_second_derivatives_where_locations_come_from_the_maps():
    """What the maps get through the locations counts once."""
    value = example([(2, 3)], batch=1, queries=3, requires_grad=True)[0]

    def run(value):
        locations = value[:, :3, :, None, :2, None].expand(-1, -1, -1, -1, -1, 2).sigmoid()
        weights = torch.ones(locations.shape[:-1], dtype=value.dtype)
        return deformable_attention(value, [(2, 3)], locations, weights)

    assert torch.autograd.gradgradcheck(run, value, fast_mode=True)
    once = torch.autograd.grad(run(value).square().sum(), value)
    torch.testing.assert_close(
        torch.autograd.grad(run(value).square().sum(), value, create_graph=True), once
    )


def test_at_pixel_centres_the_derivative_is_that_towards_the_right():
    """A row (1, 2, 4) at its middle pixel: 4 - 2 over a third of the map, 6 per map width.

    New models start there: their first offsets are whole pixels.
    """
    value = torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1)
    locations = torch.tensor([0.5, 0.5]).view(1, 1, 1, 1, 1, 2).requires_grad_()
    out = deformable_attention(value, [(1, 3)], locations, torch.ones(1, 1, 1, 1, 1))
    (grad,) = torch.autograd.grad(out.sum(), locations)
    assert grad.flatten()[0].item() == pytest.approx(6.0)


@pytest.mark.parametrize("far", [1.5, -1e4, -1e308])
def test_far_outside_is_zero(far):
    value, locations, weights = example([(3, 4), (2, 2)], requires_grad=True)
    far_away = torch.full_like(locations, far).requires_grad_()
    out = deformable_attention(value, [(3, 4), (2, 2)], far_away, weights)
    assert (out == 0).all()
    for grad in torch.autograd.grad(out.sum(), (value, far_away, weights)):
        assert (grad == 0).all()


@pytest.mark.parametrize("form", [deformable_attention, deformable.attend_by_levels])
@pytest.mark.parametrize("nowhere", [math.nan, math.inf])
def test_a_place_that_does_not_exist_makes_its_query_nan(form, nowhere):
    """A diverged query must neither read outside the maps nor hide what happened."""
    value, locations, weights = example(requires_grad=True)
    broken = locations.detach().clone()
    broken[0, 1] = nowhere
    expected = form(value, SHAPES, locations, weights)
    out = form(value, SHAPES, broken.requires_grad_(), weights)
    assert out[0, 1].isnan().all()
    torch.testing.assert_close(out[1], expected[1])
    torch.testing.assert_close(out[0, 2:], expected[0, 2:])
    torch.autograd.grad(out.sum(), (value, broken, weights))


def test_no_queries():
    value, locations, weights = example(queries=0, requires_grad=True)
    out = deformable_attention(value, SHAPES, locations, weights)
    assert out.shape == (2, 0, 6)
    out.sum().backward()
    assert value.grad.shape == value.shape
    assert not value.grad.any()


def test_operators_are_registered_correctly():
    """Schema, fake tensors, autograd registration and tracing, as torch itself checks them."""
    value, locations, weights = example(requires_grad=True)
    sizes = [size for shape in SHAPES for size in shape]
    torch.library.opcheck(deformable._attend, (value, sizes, locations, weights))
    grad = torch.randn(2, 6, 6, dtype=torch.float64)
    inputs = tuple(t.detach() for t in (value, locations, weights))
    for needs in ((True, True), (False, True), (True, False)):
        arguments = (grad, inputs[0], sizes, *inputs[1:], *needs)
        torch.library.opcheck(deformable._attend_backward, arguments)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", ["auto", "torch", "deformops"])
def test_implementations_agree(implementation, device):
    """With the grid_sample form in float64: values and gradients in float32."""
    if implementation == "deformops" and not deformable.has_deformops():
        pytest.skip("deformops is not installed")
    exact = example(heads=4, channels=8, points=4, requires_grad=True)
    weight = torch.randn(2, 6, 32, dtype=torch.float64)
    inputs = tuple(t.detach().to(device, torch.float32).requires_grad_() for t in exact)

    def run(value, locations, weights):
        return deformable_attention(
            value, SHAPES, locations, weights, implementation=implementation
        )

    out = run(*inputs)
    expected = oracle.sampled(exact[0], SHAPES, *exact[1:])
    torch.testing.assert_close(out.double().cpu(), expected, atol=1e-5, rtol=1e-4)
    actual = gradients(run, inputs, weight.to(device, torch.float32))
    wanted = gradients(lambda v, x, w: oracle.sampled(v, SHAPES, x, w), exact, weight)
    for ours, theirs in zip(actual, wanted, strict=True):
        torch.testing.assert_close(ours.double().cpu(), theirs, atol=1e-3, rtol=1e-3)


def test_deformops_is_asked_for_by_name(monkeypatch):
    """Without the package, the error says how to get it."""
    monkeypatch.setattr(deformable, "has_deformops", lambda: False)
    value, locations, weights = example()
    with pytest.raises(RuntimeError, match=r"pip install 'freqfusion\[deformops\]'"):
        deformable_attention(value, SHAPES, locations, weights, implementation="deformops")


# The module


def layer_example(box):
    torch.manual_seed(3)
    module = MultiScaleDeformableAttention(embed_dim=16, num_levels=3, num_heads=4, num_points=2)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shapes = ((2, 5, 16), (2, 5, 3, 4 if box else 2), (2, 24, 16))
    return module.double(), *(torch.rand(shape, dtype=torch.float64) for shape in shapes)


def plain_layer(module, query, reference, value, padding_mask):
    """The layer in float64 loops over its own parameters."""
    weights = {name: value.detach().numpy() for name, value in module.state_dict().items()}
    query, reference, value = query.numpy(), reference.numpy(), value.numpy()

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    projected = linear("value_proj", value)
    projected[padding_mask.numpy()] = 0
    batch, queries, _ = query.shape
    size = (batch, queries, 4, 3, 2)
    logits = np.exp(linear("attention_weights", query).reshape(batch, queries, 4, 6))
    attention = (logits / logits.sum(-1, keepdims=True)).reshape(size)
    offsets = linear("sampling_offsets", query).reshape(*size, 2)
    locations = np.zeros_like(offsets)
    for level, (height, width) in enumerate(SHAPES):
        point = reference[:, :, None, level, None]
        reach = point[..., 2:] / 2 / 2 if point.shape[-1] == 4 else 1 / np.array([width, height])
        locations[:, :, :, level] = point[..., :2] + offsets[:, :, :, level] * reach
    split = projected.reshape(batch, 24, 4, 4)
    return linear("output_proj", oracle.loops(split, SHAPES, locations, attention))


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_layer_equals_plain_loops(box, padded):
    """What is padding counts as zero."""
    module, *inputs = layer_example(box)
    mask = torch.zeros(2, 24, dtype=torch.bool)
    mask[0, 10:] = padded
    out = module(*inputs, SHAPES, mask).detach()
    np.testing.assert_allclose(out, plain_layer(module, *inputs, mask), atol=1e-10)


def test_names_and_start():
    """Eight heads look at the eight neighbours, point by point one pixel further; equal weights.

    2 levels and 3 points of 8 heads: 2 * 48 offsets, 48 weights.
    """
    module = MultiScaleDeformableAttention(num_levels=2, num_points=3)
    widths = {
        "sampling_offsets": 96,
        "attention_weights": 48,
        "value_proj": 256,
        "output_proj": 256,
    }
    shapes = {name: tuple(p.shape) for name, p in module.state_dict().items()}
    assert shapes == {
        **{f"{name}.weight": (width, 256) for name, width in widths.items()},
        **{f"{name}.bias": (width,) for name, width in widths.items()},
    }
    offsets = module.sampling_offsets.bias.detach().view(8, 2, 3, 2)
    around = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    steps = torch.arange(1.0, 4)[:, None] * torch.tensor(around).float()[:, None, None]
    torch.testing.assert_close(offsets, steps.expand(-1, 2, -1, -1), atol=1e-5, rtol=0)
    for layer in (module.sampling_offsets, module.attention_weights):
        assert not layer.weight.any()
    assert not module.attention_weights.bias.any()
    for layer in (module.value_proj, module.output_proj):
        assert not layer.bias.any()
        bound = math.sqrt(6 / 512)
        assert 0.95 * bound < layer.weight.abs().max() <= bound
