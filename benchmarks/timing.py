"""Time and memory of two forms of one computation."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

# Makes the inputs and returns the call to measure; the call returns what the user keeps.
Setup = Callable[[], Callable[[], tuple[Tensor, ...]]]


def run_in_turn(
    ours: Callable[[], object], reference: Callable[[], object], runs: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of both forms, run by run, after a run of each that does not count.

    They run in turn, so that a change of the machine's speed affects both alike, and the order
    changes from run to run, so that neither always follows the other.
    """
    forms, times = (ours, reference), ([0.0] * runs, [0.0] * runs)
    for form in forms:
        form()
    for number in range(runs):
        for which in (1, 0) if number % 2 else (0, 1):
            started = time.perf_counter()
            forms[which]()
            times[which][number] = time.perf_counter() - started
    return times


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile; both are the value where there is only one."""
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def waiting(call: Callable[[], object], device: str) -> Callable[[], None]:
    """Return a call that ends when the device has done its work."""

    def whole() -> None:
        call()
        if device != "cpu":
            torch.cuda.synchronize()

    return whole


def copy_rate(runs: int, device: str = "cpu") -> float:
    """Return the bytes per second, read and written, of copying 64 MiB, on a GPU 1 GiB."""
    numbers = 1 << (24 if device == "cpu" else 28)
    source, target = torch.ones(numbers, device=device), torch.empty(numbers, device=device)
    copy = waiting(lambda: target.copy_(source), device)
    times, _ = run_in_turn(copy, lambda: None, runs)
    return 2 * 4 * source.numel() / statistics.median(times)


def peak_extra_bytes(setup: Setup, warm_up: Setup, threads: int) -> int | None:
    """Return the peak memory of a call beyond its inputs and results; ``None`` outside Linux.

    The call runs in a process of its own, so ``setup`` and ``warm_up`` must be picklable. The
    warm-up, a small case, loads the libraries and starts the threads, so that they do not count.
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_peak, setup, warm_up, threads).result()


def _measure_peak(setup: Setup, warm_up: Setup, threads: int) -> int:
    torch.set_num_threads(threads)
    warm_up()()
    call = setup()
    gc.collect()
    # Linux: "5" resets the recorded peak to the present use.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    kept = call()
    kept_bytes = sum(tensor.numel() * tensor.element_size() for tensor in kept)
    return max(0, _status("VmHWM") - before - kept_bytes)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values[field].split()[0]) * 1024
