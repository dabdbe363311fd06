"""Which form computes an operator: plain torch, the compiled one, or the Triton kernels."""

import functools
import importlib
import os
import shutil
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from freqfusion.layers.neighbourhood import compiled, plain

KernelChoice = Literal["torch", "compiled", "triton", "auto"]

VARIABLE = "FREQFUSION_KERNELS"
# The oldest GPUs that the kernels are designed for (Ampere).
_CAPABILITY = (8, 0)


def needs_standard_operators() -> bool:
    """Say whether standard operators must compute, since something has no rule for custom ones.

    Exporters have none, nor have the transforms of ``torch.func`` and forward-mode differentiation,
    which would take the tangents for zero without a word.
    """
    return (
        torch.compiler.is_exporting()
        or forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
    )


def choose_form(*tensors: Tensor) -> ModuleType:
    """Return the module that is to compute with these tensors.

    The environment variable ``FREQFUSION_KERNELS`` decides, read at every call: ``torch`` takes
    :mod:`.plain`, ``compiled`` and ``triton`` the forms of these names, and ``auto`` (also where it
    is not set) the compiled one on a CPU, where a compiler is found, and Triton's on an NVIDIA GPU
    of Ampere's generation or newer, where Triton and a C compiler are. What a form does not do,
    such as other dtypes than floating-point ones of 16, 32 and 64 bits, is left to plain torch.

    Raises:
        ValueError: for another value of the variable.
        RuntimeError: if a form is asked for that cannot run.
    """
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in get_args(KernelChoice):
        raise ValueError(
            f"the environment variable {VARIABLE} must be one of torch, compiled, triton and auto, "
            f"got {choice!r}"
        )
    device = tensors[0].device
    if choice == "compiled" or (choice == "auto" and device.type == "cpu"):
        if choice == "compiled":
            _check_compiled(device)
        is_there = compiled.library() is not None and compiled.fits(*tensors)
        return compiled if is_there else plain
    if choice == "triton" or (choice == "auto" and _is_suitable(device)):
        fused = _load()
        if choice == "triton":
            _check_runs(fused, device)
        if fused is not None and fused.fits(*tensors):
            return fused
    return plain


def _check_compiled(device: torch.device) -> None:
    if device.type != "cpu":
        raise RuntimeError(
            f"{VARIABLE}=compiled needs tensors on a CPU, got some on {device}; set {VARIABLE}=auto"
        )
    if compiled.library() is None:
        raise RuntimeError(f"{VARIABLE}=compiled cannot be had: {compiled.problem()}")


@functools.cache
def _load() -> ModuleType | None:
    """Import the kernels, once, and only where they are wanted: Triton is not everywhere."""
    try:
        return importlib.import_module("freqfusion.layers.neighbourhood.fused")
    except ImportError:
        return None


@functools.cache
def _is_suitable(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return False
    return torch.cuda.get_device_capability(device) >= _CAPABILITY


def _check_runs(fused: ModuleType | None, device: torch.device) -> None:
    if fused is None:
        raise RuntimeError(
            f"{VARIABLE}=triton needs the package triton: pip install triton, or set "
            f"{VARIABLE}=auto"
        )
    if device.type != "cuda" and not fused.is_interpreted():
        raise RuntimeError(
            f"{VARIABLE}=triton needs tensors on a GPU, got some on {device}; set {VARIABLE}=auto, "
            "or TRITON_INTERPRET=1 before the start to run the kernels in Triton's slow interpreter"
        )
