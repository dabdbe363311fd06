"""All random states of a process, as data that a checkpoint can hold."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """States of torch, numpy and Python, and of the GPU that is in use: tensors and numbers."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.array(keys, np.int64)), position, has_gauss],
        "numpy_cached": float(cached),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """What ``capture`` gave; the state of a GPU is left out where none is in use."""
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss = state["numpy"]
    np.random.set_state(
        (name, keys.numpy().astype(np.uint32), position, has_gauss, state["numpy_cached"])
    )
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def randomness_of(state: dict[str, Any]) -> Iterator[None]:
    """Random numbers of another moment; afterwards those of before go on."""
    before = capture()
    restore(state)
    try:
        yield
    finally:
        restore(before)
