"""The Triton kernels on a GPU: the interpreter's cases, larger maps, and who computes what."""

import importlib.util

import fused_cases
import pytest
import torch

from freqfusion.layers import reassemble
from freqfusion.layers.neighbourhood import Geometry, choice, plain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed"
    ),
]
NAMED = [
    pytest.param(case, id=fused_cases.name_of(case))
    for case in [*fused_cases.CASES, *fused_cases.GRID]
]
LARGE = [
    ((64, 64), (128, 128), Geometry(5, scale=2)),
    ((65, 129), (129, 257), Geometry(5, scale=2, groups=2)),
    ((100, 67), (100, 67), Geometry(3, margin=1)),
    ((40, 40), (160, 160), Geometry(5, scale=4)),
    ((40, 40), (111, 57), Geometry(3, scale=2)),
]


@pytest.fixture
def fused():
    from freqfusion.layers.neighbourhood import fused

    assert not fused.is_interpreted()
    return fused


@pytest.mark.parametrize("case", NAMED)
def test_equals_plain_loops(fused, case):
    fused_cases.check_against_loops(fused, case, device="cuda")


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("dtype", fused_cases.DTYPES, ids=str)
@pytest.mark.parametrize("case", LARGE, ids=fused_cases.name_of)
def test_equals_torch(fused, case, dtype, last):
    options = {"channels": 72, "device": "cuda", "dtype": dtype, "last": last}
    fused_cases.check_against_torch(fused, case, **options)


@pytest.mark.parametrize("case", NAMED[:14])
def test_derivatives(case):
    fused_cases.check_derivatives(case, "triton", device="cuda")


def test_automatic_choice(fused, monkeypatch):
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    image = torch.zeros(1, device="cuda")
    new_enough = torch.cuda.get_device_capability() >= (8, 0)
    assert choice.choose_form(image) is (fused if new_enough else plain)
    monkeypatch.setenv(choice.VARIABLE, "torch")
    assert choice.choose_form(image) is plain


def test_same_bits_from_run_to_run(fused):
    case = LARGE[1]
    inputs = fused_cases.example(case, channels=64, device="cuda", dtype=torch.float32)
    first = fused_cases.run(fused, *inputs, case[-1])
    second = fused_cases.run(fused, *inputs, case[-1])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_compiled_model(fused):
    features = torch.randn(1, 16, 20, 24, device="cuda", requires_grad=True)
    kernels = torch.randn(1, 25, 40, 48, device="cuda", requires_grad=True)

    def run(features, kernels):
        return reassemble(features * 2, kernels, kernel_size=5, scale=2).relu()

    compiled = torch.compile(run, fullgraph=True)
    out, expected = compiled(features, kernels), run(features, kernels)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    actual = torch.autograd.grad(out.sum(), (features, kernels))
    wanted = torch.autograd.grad(expected.sum(), (features, kernels))
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-3)


def test_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    case = fused_cases.CASES[3]
    fused_cases.check_derivatives(case, "triton", device="cuda:1")
