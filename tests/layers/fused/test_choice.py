"""FREQFUSION_KERNELS: which implementation computes, and what is said where that cannot be."""

import types

import pytest
import torch

from freqfusion.layers import reassemble
from freqfusion.layers.neighbourhood import choice, compiled, plain

CPU = torch.zeros(1)
ON_GPU = types.SimpleNamespace(device=torch.device("cuda", 0))


def stand_in(*, interpreted=False, fits=True):
    return types.SimpleNamespace(is_interpreted=lambda: interpreted, fits=lambda *tensors: fits)


@pytest.fixture
def machine(monkeypatch):
    """Set up a machine: its kernels, None without Triton, and the variable."""

    def set_up(kernels, variable=None, *, suitable=True):
        monkeypatch.setattr(choice, "_load", lambda: kernels)
        monkeypatch.setattr(
            choice, "_is_suitable", lambda device: suitable and device.type == "cuda"
        )
        monkeypatch.delenv(choice.VARIABLE, raising=False)
        if variable is not None:
            monkeypatch.setenv(choice.VARIABLE, variable)

    return set_up


@pytest.mark.parametrize(
    ("variable", "suitable"),
    [(None, True), ("", True), ("auto", True), ("triton", True), ("triton", False)],
)
def test_a_gpu_with_triton_takes_the_kernels(machine, variable, suitable):
    """Also an older one, when it is asked to."""
    kernels = stand_in()
    machine(kernels, variable, suitable=suitable)
    assert choice.choose_form(ON_GPU, ON_GPU) is kernels


@pytest.mark.parametrize(
    ("tensor", "kernels", "suitable", "variable", "expected"),
    [
        pytest.param(ON_GPU, stand_in(), True, "torch", plain, id="torch-is-asked-for"),
        pytest.param(ON_GPU, None, True, "auto", plain, id="no-triton"),
        pytest.param(ON_GPU, stand_in(), False, "auto", plain, id="older-gpu"),
        pytest.param(ON_GPU, stand_in(fits=False), True, "auto", plain, id="too-large"),
        pytest.param(ON_GPU, stand_in(fits=False), True, "triton", plain, id="too-large-too"),
        pytest.param(CPU, stand_in(interpreted=True), True, "auto", compiled, id="cpu"),
        pytest.param(CPU, stand_in(interpreted=True), True, "compiled", compiled, id="cpu-asked"),
        pytest.param(CPU, stand_in(), True, "torch", plain, id="cpu-torch"),
        pytest.param(CPU.int(), stand_in(), True, "auto", plain, id="whole-numbers"),
    ],
)
def test_everything_else(machine, tensor, kernels, suitable, variable, expected, monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: print)
    machine(kernels, variable, suitable=suitable)
    assert choice.choose_form(tensor, tensor) is expected


def test_a_cpu_takes_them_in_the_interpreter_only(machine):
    kernels = stand_in(interpreted=True)
    machine(kernels, "triton")
    assert choice.choose_form(CPU) is kernels
    machine(stand_in(), "triton")
    with pytest.raises(
        RuntimeError, match=r"needs tensors on a GPU, got some on cpu; set FREQ.*=auto"
    ):
        choice.choose_form(CPU)


def test_compiled_is_asked_for_where_it_cannot_run(machine, monkeypatch):
    machine(stand_in(), "compiled")
    with pytest.raises(RuntimeError, match=r"needs tensors on a CPU, got some on cuda:0; set FREQ"):
        choice.choose_form(ON_GPU)
    monkeypatch.setattr(compiled, "library", lambda: None)
    monkeypatch.setattr(compiled, "problem", lambda: "there is no C++ compiler")
    with pytest.raises(RuntimeError, match=r"compiled cannot be had: there is no C\+\+ compiler"):
        choice.choose_form(CPU)


def test_triton_is_asked_for_and_missing(machine):
    machine(None, "triton")
    with pytest.raises(RuntimeError, match="needs the package triton: pip install triton"):
        choice.choose_form(ON_GPU)


def test_unknown_value(monkeypatch):
    """It is read at every call, also by the operators."""
    monkeypatch.setenv(choice.VARIABLE, "cuda")
    features, kernels = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"one of torch, compiled, triton and auto, got 'cuda'"):
        reassemble(features, kernels, kernel_size=1)
    monkeypatch.setenv(choice.VARIABLE, "torch")
    assert reassemble(features, kernels, kernel_size=1).shape == (1, 1, 2, 2)


def test_a_cpu_never_loads_the_kernels(monkeypatch):
    """They are compiled only where they are wanted."""
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    monkeypatch.setattr(choice, "_load", lambda: pytest.fail("the kernels are loaded"))
    features = torch.ones(1, 1, 2, 2, requires_grad=True)
    reassemble(features, torch.ones(1, 9, 2, 2), kernel_size=3).sum().backward()
