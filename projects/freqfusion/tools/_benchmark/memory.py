"""Peak memory of one call, measured by the operating system in a process of its own."""

import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

_PEAK, _NOW = "VmHWM", "VmRSS"

# Makes the inputs and returns the call to measure; the call returns what the user keeps.
Setup = Callable[[], Callable[[], tuple[Tensor, ...]]]


def peak_extra_bytes(setup: Setup, warm_up: Setup, threads: int) -> int | None:
    """Peak memory of a call beyond its inputs and what it returns; ``None`` outside Linux.

    ``setup`` and ``warm_up`` must be picklable. The warm-up, a small case, loads the libraries and
    starts the threads, so that they are not counted.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, setup, warm_up, threads).result()


def _measure(setup: Setup, warm_up: Setup, threads: int) -> int:
    torch.set_num_threads(threads)
    warm_up()()
    call = setup()
    gc.collect()
    # Linux: "5" resets the recorded peak to the present use.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status(_NOW)
    kept = call()
    kept_bytes = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return max(0, _status(_PEAK) - before - kept_bytes)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
