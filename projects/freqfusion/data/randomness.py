"""Random numbers: where a process is in them, and some that one piece of work has for itself."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """Return the states of the generators of Python, numpy, torch and the GPU in use.

    Of plain numbers and tensors, so that it can be read from a file without running code.
    """
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), torch.from_numpy(np.array(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore(state: Mapping[str, Any]) -> None:
    """Go on from what ``capture`` gave, maybe in another process; without a GPU its part is not."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def separate_randomness(seed: int) -> Iterator[None]:
    """Seed all generators by ``seed``, below 2 ** 32, and restore them afterwards."""
    with randomness_of(capture()):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        yield


@contextmanager
def randomness_of(state: Mapping[str, Any]) -> Iterator[None]:
    """Set all generators to a captured state, and restore them afterwards."""
    before = capture()
    restore(state)
    try:
        yield
    finally:
        restore(before)


def seed_from(*numbers: int) -> int:
    """Return a seed below 2 ** 32 that is unrelated to that of other numbers (from 0 on)."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
