"""Rows: one case in both forms, or one case at one image size."""

import os
import statistics
from functools import partial
from typing import Any

import torch

from freqfusion.tools._benchmark.memory import peak_extra_bytes
from freqfusion.tools._benchmark.suite import WARM_UP, Case, Size, Suite
from freqfusion.tools._benchmark.suites import SUITES
from freqfusion.tools._benchmark.timing import compare, copy_rate

_TOLERANCE = 1e-3


def measure(suite: str, case: str, size: Size, runs: int, threads: int) -> dict[str, Any]:
    """Both forms of a case: checked against each other where they compute the same, timed, weighed.

    Memory is ``None`` for whole models and data, whose libraries keep memory of their own.
    """
    chosen = SUITES[suite]
    build = chosen.cases[case]
    ours, reference = (build(size, ours=form) for form in (True, False))
    if chosen.is_same:
        for actual, expected in zip(ours(), reference(), strict=True):
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(actual, expected, atol=_TOLERANCE * scale, rtol=0)
    timing = compare(ours, reference, runs)
    memory = [None if chosen.of_images else _memory(build, size, f, threads) for f in (True, False)]
    return {
        "suite": suite,
        "case": case,
        "size": f"{size.image[0]}x{size.image[1]} pixels" if chosen.of_images else str(size),
        "threads": threads,
        "reference": chosen.reference,
        "ours_ms": timing.ours,
        "reference_ms": timing.reference,
        "speedup": timing.ratio,
        "speedup_quartiles": timing.spread,
        "ours_extra_bytes": memory[0],
        "reference_extra_bytes": memory[1],
        **_of_memory(chosen, case, size, timing.ours, copy_rate(runs)),
    }


def measure_size(suite: str, case: str, size: Size, runs: int, threads: int) -> dict[str, Any]:
    """Our form alone at the size of an image; the reference is what the memory gives."""
    chosen = SUITES[suite]
    call = chosen.cases[case](size, ours=True)
    times = compare(call, lambda: None, runs).ours
    height, width = size.image
    return {
        "suite": suite,
        "case": case,
        "image": max(size.image),
        "threads": threads,
        "memory_kept": "MALLOC_MMAP_THRESHOLD_" in os.environ,
        "ours_ms": times,
        "ns_per_pixel": 1e6 * statistics.median(times) / (height * width),
        **_of_memory(chosen, case, size, times, copy_rate(runs)),
    }


def _of_memory(
    suite: Suite, case: str, size: Size, times: list[float], copied: float
) -> dict[str, Any]:
    """The floor of a case, and the rate that it would mean if nothing else were moved."""
    if suite.floor is None:
        return {
            "floor_bytes": None,
            "floor_operations": None,
            "copy_gb_per_s": copied / 1e9,
            "achieved_gb_per_s": None,
        }
    least = suite.floor(size, case)
    return {
        "floor_bytes": least.bytes,
        "floor_operations": least.operations,
        "copy_gb_per_s": copied / 1e9,
        "achieved_gb_per_s": least.bytes / statistics.median(times) / 1e6,
    }


def _memory(case: Case, size: Size, ours: bool, threads: int) -> int | None:
    setup = partial(case, ours=ours)
    return peak_extra_bytes(partial(setup, size), partial(setup, WARM_UP), threads)
