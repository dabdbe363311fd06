"""Reassembly and the operators below it: numbers, gradients, sizes, dtypes, memory, export."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import loops, unfold

from freqfusion.layers import reassemble
from freqfusion.layers.neighbourhood import Geometry, compiled, gather, operators, plain
from freqfusion.layers.reassembly import mirror


def example(
    *, size=(5, 7), out_size=None, channels=4, kernel_size=3, scale=1, groups=1, batch=2, **options
):
    """Random features and kernels that fit together."""
    options = {"dtype": torch.float64, **options}
    out_size = out_size or (size[0] * scale, size[1] * scale)
    features = torch.randn(batch, channels, *size, **options)
    kernels = torch.randn(batch, groups * kernel_size**2, *out_size, **options)
    return features, kernels


def test_by_hand():
    """One row (1, 2, 3), kernel 1 x 3 of weights (10, 1, 100): 201, 10 + 2 + 300, 20 + 3."""
    features = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    kernels = torch.zeros(1, 9, 1, 3)
    kernels[0, 3:6] = torch.tensor([10.0, 1.0, 100.0]).view(3, 1, 1)
    out = reassemble(features, kernels, kernel_size=3)
    assert out.flatten().tolist() == [201.0, 312.0, 23.0]
    # Mirrored, the left neighbour of the first pixel is 2 and the right one of the last is 2.
    out = reassemble(features, kernels, kernel_size=3, padding_mode="reflect")
    assert out.flatten().tolist() == [221.0, 312.0, 223.0]


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    out_size=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel_size=st.sampled_from([1, 3, 5]),
    scale=st.integers(1, 3),
    groups=st.sampled_from([1, 2]),
    padding_mode=st.sampled_from(["zeros", "reflect"]),
)
def test_equals_plain_loops(size, out_size, kernel_size, scale, groups, padding_mode):
    features, kernels = example(
        size=size, out_size=out_size, kernel_size=kernel_size, scale=scale, groups=groups, batch=1
    )
    options = {
        "kernel_size": kernel_size,
        "scale": scale,
        "groups": groups,
        "padding_mode": padding_mode,
    }
    expected = loops.reassemble(features.numpy(), kernels.numpy(), **options)
    actual = reassemble(features, kernels, **options, out_size=out_size)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


@settings(max_examples=30)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.integers(1, 3),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    channels=st.sampled_from([1, 3, 17]),
    groups=st.integers(1, 3),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)
def test_equals_unfold_form(height, width, scale, kernel_size, channels, groups, dtype):
    """Any size, group count and dtype: one rounding of the output, and those of the sum."""
    features, kernels = example(
        size=(height, width),
        scale=scale,
        kernel_size=kernel_size,
        channels=channels * groups,
        groups=groups,
        batch=1,
    )
    features, kernels = features.to(dtype), kernels.to(dtype)
    options = {"kernel_size": kernel_size, "scale": scale}
    actual = reassemble(features, kernels, groups=groups, **options)
    blocks = list(zip(features.chunk(groups, 1), kernels.chunk(groups, 1), strict=True))

    def exact(change):
        parts = [unfold.reassemble(change(x), change(m), **options) for x, m in blocks]
        return torch.cat(parts, dim=1)

    expected = exact(torch.Tensor.double)
    sizes = exact(lambda t: t.double().abs())
    summing = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    tolerance = torch.finfo(dtype).eps * expected.abs() + kernel_size**2 * summing * sizes
    assert actual.dtype == dtype
    assert ((actual.double() - expected).abs() <= tolerance + torch.finfo(dtype).tiny).all()


def test_cropped_multiple():
    """27 x 26 from 14 x 13 at scale 2 is the exact double, cropped, with kernels of either size."""
    features, kernels = example(size=(14, 13), scale=2, kernel_size=5)
    whole = reassemble(features, kernels, kernel_size=5, scale=2)[..., :27, :26]
    for fitting in (kernels, kernels[..., :27, :26]):
        out = reassemble(features, fitting, kernel_size=5, scale=2, out_size=(27, 26))
        torch.testing.assert_close(out, whole)


CASES = [
    pytest.param({"kernel_size": 3}, None, id="same-size"),
    pytest.param({"kernel_size": 3, "groups": 2}, None, id="groups"),
    pytest.param({"kernel_size": 5, "scale": 2}, None, id="double"),
    pytest.param({"kernel_size": 3, "scale": 3, "groups": 2}, None, id="triple-groups"),
    pytest.param({"kernel_size": 3, "scale": 2}, (5, 7), id="cropped"),
    pytest.param({"kernel_size": 3, "scale": 2}, (5, 9), id="other-ratio"),
    pytest.param({"kernel_size": 3, "scale": 2, "padding_mode": "reflect"}, None, id="reflect"),
]


@pytest.mark.parametrize(("options", "out_size"), CASES)
def test_gradients_of_first_and_second_order(options, out_size):
    shape = {k: v for k, v in options.items() if k != "padding_mode"}
    inputs = example(
        size=(3, 4), out_size=out_size, batch=1, channels=2, **shape, requires_grad=True
    )

    def run(features, kernels):
        return reassemble(features, kernels, **options, out_size=out_size)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=inputs[1].numel() > 500)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=50)
@given(
    size=SIZES,
    out_size=SIZES,
    kernel_size=st.sampled_from([1, 3, 5]),
    dilation=st.integers(1, 2),
    scale=st.integers(1, 3),
    groups=st.integers(1, 2),
    margin=st.integers(0, 3),
    form=st.sampled_from([plain, compiled]),
)
def test_operators_are_adjoint(size, out_size, kernel_size, dilation, scale, groups, margin, form):
    """They are derivatives of one sum over values, kernels and features."""
    geometry = Geometry(kernel_size, dilation, scale, groups, margin)
    padded = tuple(length + 2 * margin for length in size)
    features = torch.randn(2, 4, *padded, dtype=torch.float64)
    kernels = torch.randn(2, geometry.taps * groups, *out_size, dtype=torch.float64)
    values = torch.randn(2, 4, *out_size, dtype=torch.float64)
    total = (form.gather(features, kernels, geometry) * values).sum()
    by_scatter = (form.scatter(values, kernels, padded, geometry) * features).sum()
    by_correlate = (form.correlate(values, features, geometry) * kernels).sum()
    torch.testing.assert_close(by_scatter, total)
    torch.testing.assert_close(by_correlate, total)


@pytest.mark.parametrize("geometry", [Geometry(3), Geometry(3, scale=2, groups=2)])
def test_operators_are_registered_correctly(geometry):
    """Schema, fake tensors, autograd registration and tracing, as torch itself checks them."""
    features, kernels = example(
        size=(4, 5), scale=geometry.scale, groups=geometry.groups, requires_grad=True
    )
    values = torch.randn_like(gather(features, kernels, geometry), requires_grad=True)
    fields = [geometry.kernel_size, geometry.dilation, geometry.scale, geometry.groups, 0]
    torch.library.opcheck(operators._gather, (features, kernels, fields))
    torch.library.opcheck(operators._correlate, (values, features, fields))
    torch.library.opcheck(operators._scatter, (values, kernels, 4, 5, fields))
    torch.library.opcheck(operators._gradients, (values, features, kernels, fields))


def test_mixed_precision_keeps_each_dtype():
    """Under autocast features are half and softmaxed kernels are float32."""
    features, kernels = example(scale=2, dtype=torch.float32)
    features = features.bfloat16().requires_grad_()
    kernels.requires_grad_()
    out = reassemble(features, kernels, kernel_size=3, scale=2)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert (features.grad.dtype, kernels.grad.dtype) == (torch.bfloat16, torch.float32)


def test_channels_last_comes_out_as_it_goes_in():
    features, kernels = example(scale=2)
    out = reassemble(
        features.to(memory_format=torch.channels_last), kernels, kernel_size=3, scale=2
    )
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("options", "out_size"), CASES)
def test_exported_form_is_equal_and_standard(options, out_size):
    shape = {k: v for k, v in options.items() if k != "padding_mode"}
    inputs = example(size=(3, 4), out_size=out_size, **shape)
    module = torch.nn.Module()
    module.forward = lambda x, m: reassemble(x, m, **options, out_size=out_size)
    program = torch.export.export(module, inputs)
    torch.testing.assert_close(program.module()(*inputs), module(*inputs))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [target for target in targets if "freqfusion" in target]


def test_mirror_repeats_no_border():
    """0 1 2 continued: ... 2 1 | 0 1 2 | 1 0 ..."""
    found = mirror(torch.tensor([[0, 1, 2]]), 5, dim=1)
    assert found.tolist() == [[1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]]
    assert mirror(torch.tensor([7]), 2, dim=0).tolist() == [7] * 5
