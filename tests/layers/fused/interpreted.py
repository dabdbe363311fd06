"""Run by test_in_interpreter.py in a process of its own, in which Triton interprets the kernels."""

import ctypes
import mmap

import fused_cases
import pytest
import torch
import triton
from triton.runtime import interpreter

from freqfusion.layers import local_similarity, reassemble
from freqfusion.layers.neighbourhood import Geometry, fused, plain

assert fused.is_interpreted(), "set TRITON_INTERPRET=1 before the start"

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8):
    # Triton's older interpreters make an index of an array of one number by a conversion that
    # NumPy has refused since 2.4.
    patch_tensor = interpreter._patch_lang_tensor

    def patch_tensor_and_index(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_and_index

CASES = [pytest.param(case, id=fused_cases.name_of(case)) for case in fused_cases.CASES]
# Slow in an interpreter, and of kinds that others have, too.
SLOW = (1, 3, 7, 8, 10, 12, 13)
GRID = [pytest.param(case, id=fused_cases.name_of(case)) for case in fused_cases.GRID]
DOUBLE = ((3, 4), (5, 7), Geometry(3, scale=2))


@pytest.mark.parametrize("case", [case for i, case in enumerate(CASES) if i not in SLOW])
def test_equals_plain_loops(case):
    fused_cases.check_against_loops(fused, case, batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*(CASES[i] for i in SLOW), *GRID])
def test_grid_equals_plain_loops(case):
    fused_cases.check_against_loops(fused, case, batch=1)


@pytest.mark.parametrize("number", range(4))
def test_equals_torch_in_any_dtype_and_layout(number):
    dtype, last = fused_cases.DTYPES[number], number % 2 == 1
    case = ((2, 3), (4, 5), Geometry(3, scale=2, groups=2))
    fused_cases.check_against_torch(fused, case, dtype=dtype, last=last)


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_blocks_of_channels_that_are_not_full(last):
    fused_cases.check_against_torch(fused, DOUBLE, channels=9, batch=1, last=last)


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", fused_cases.DTYPES, ids=str)
@pytest.mark.parametrize("case", GRID[::5])
def test_grid_equals_torch_in_any_dtype_and_layout(case, dtype, last):
    fused_cases.check_against_torch(fused, case, dtype=dtype, last=last, channels=9)


def test_derivatives_of_first_and_second_order():
    case = ((2, 2), (3, 4), Geometry(3, scale=2))
    fused_cases.check_derivatives(case, "triton", channels=1, batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_all_derivatives_of_first_and_second_order(case):
    fused_cases.check_derivatives(case, "triton")


def test_reassemble_uses_the_kernels(monkeypatch):
    features = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(1, 18, 4, 6, dtype=torch.float64, requires_grad=True)
    options = {"kernel_size": 3, "scale": 2, "groups": 2, "padding_mode": "reflect"}
    expected = reassemble(features, kernels, **options)
    wanted = torch.autograd.grad(expected.square().sum(), (features, kernels))
    calls = count_calls(monkeypatch)
    monkeypatch.setenv("FREQFUSION_KERNELS", "triton")
    actual = reassemble(features, kernels, **options)
    torch.testing.assert_close(actual, expected)
    gradients = torch.autograd.grad(actual.square().sum(), (features, kernels))
    torch.testing.assert_close(gradients, wanted)
    assert sorted(calls) == ["correlate", "gather", "scatter"]


def test_local_similarity_uses_the_kernels(monkeypatch):
    features = torch.randn(1, 4, 5, 6)
    expected = local_similarity(features)
    calls = count_calls(monkeypatch)
    monkeypatch.setenv("FREQFUSION_KERNELS", "triton")
    torch.testing.assert_close(local_similarity(features), expected)
    # Of the features, and of their inverse norms.
    assert calls == ["correlate", "correlate"]


def test_strided_inputs_are_read_where_they_lie():
    """Slices, and a gradient of a sum, whose strides are zero."""
    features = torch.randn(2, 8, 6, 9, dtype=torch.float64)[:, ::2, 1:4, 2:6]
    kernels = torch.randn(2, 6, 8, 9, dtype=torch.float64).permute(0, 3, 1, 2)
    values = torch.ones((), dtype=torch.float64).expand(2, 4, 6, 8)
    actual = fused_cases.run(fused, features, kernels, values, Geometry(3, scale=2))
    expected = fused_cases.run(plain, features, kernels, values, Geometry(3, scale=2))
    torch.testing.assert_close(actual, expected)


def test_mixed_precision():
    """Half-precision features with float32 kernels, as under autocast."""
    features, kernels, values = fused_cases.example(DOUBLE, dtype=torch.float32)
    inputs = (features.half(), kernels, values.half())
    actual = fused_cases.run(fused, *inputs, DOUBLE[-1])
    expected = fused_cases.run(plain, *(t.float() for t in inputs), DOUBLE[-1])
    assert [t.dtype for t in actual] == [torch.float16, torch.float32, torch.float32]
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a.float(), e, rtol=2e-3, atol=1e-3)


def test_empty_batch():
    inputs = fused_cases.example(DOUBLE, batch=0)
    actual = fused_cases.run(fused, *inputs, DOUBLE[-1])
    expected = fused_cases.run(plain, *inputs, DOUBLE[-1])
    torch.testing.assert_close(actual, expected)


def test_nothing_outside_the_tensors_is_read():
    """Each input ends where a page that must not be read begins: to touch it ends the process."""
    for case in (DOUBLE, ((5, 7), (5, 7), Geometry(3)), ((2, 3), (5, 8), Geometry(3))):
        inputs = [before_a_forbidden_page(t) for t in fused_cases.example(case, batch=1)]
        for result in fused_cases.run(fused, *inputs, case[-1]):
            assert result.isfinite().all()


def before_a_forbidden_page(tensor):
    page = mmap.PAGESIZE
    size = tensor.numel() * tensor.element_size()
    readable = -(-size // page) * page
    memory = mmap.mmap(-1, readable + page)
    copy = torch.frombuffer(memory, dtype=tensor.dtype)[
        (readable - size) // tensor.element_size() :
    ]
    copy = copy[: tensor.numel()].view(tensor.shape).copy_(tensor)
    forbidden = ctypes.c_void_p(copy.data_ptr() + size)
    assert ctypes.CDLL(None).mprotect(forbidden, ctypes.c_size_t(page), 0) == 0
    return copy


def count_calls(monkeypatch):
    calls = []

    def count(name, function):
        def counted(*arguments):
            calls.append(name)
            return function(*arguments)

        monkeypatch.setattr(fused, name, counted)

    for name in fused_cases.OPERATORS:
        count(name, getattr(fused, name))
    return calls
