"""Which implementation computes an operator: plain torch, or the Triton kernels on a GPU."""

import functools
import importlib
import os
import shutil
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

KernelChoice = Literal["torch", "triton", "auto"]

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


def fused_kernels(*tensors: Tensor) -> ModuleType | None:
    """The Triton kernels if they are to compute with these tensors, ``None`` for plain torch.

    The environment variable ``FREQFUSION_KERNELS`` decides, read at every call: ``torch`` never,
    ``triton`` always, ``auto`` (also where it is not set) for tensors on an NVIDIA GPU of Ampere's
    generation or newer where Triton can be imported. Dtypes other than floating-point ones of 16,
    32 and 64 bits, and images of more than about 2 ** 30 numbers, take plain torch in any case.
    ``auto`` also wants a C compiler, with which Triton builds what starts its kernels.

    Raises:
        ValueError: for another value of the variable.
        RuntimeError: if ``triton`` is asked for where it cannot run.
    """
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in get_args(KernelChoice):
        raise ValueError(
            f"the environment variable {VARIABLE} must be one of torch, triton and auto, "
            f"got {choice!r}"
        )
    device = tensors[0].device
    if choice == "torch" or (choice == "auto" and not _is_suitable(device)):
        return None
    fused = _load()
    if choice == "triton":
        _check_runs(fused, device)
    if fused is None or not fused.fits(*tensors):
        return None
    return fused


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
