"""How long a module and its parts take."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from freqfusion.analysis.module_tally import RunningModule, roll_up

_MILLISECONDS = 1000


@dataclass(frozen=True)
class Spread:
    """Milliseconds of several runs: their median, and the fastest and slowest."""

    median: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class Latency:
    """Times of a forward pass.

    Args:
        total: Of the whole module, without looking inside it.
        by_module: Name of each part, as in ``named_modules``, to the times of it and its parts in
            other runs. A part is timed from hook to hook, and a GPU has to finish there, so that
            these runs take a little longer.
        device: Where it ran.
        threads: Of torch on the CPU.
    """

    total: Spread
    by_module: dict[str, Spread]
    device: str
    threads: int


def measure_latency(module: nn.Module, *inputs: Any, runs: int = 5, warm_up: int = 1) -> Latency:
    """Time the forward pass of a module and of its parts, without gradients.

    Raises:
        ValueError: if ``runs`` is below one or ``warm_up`` below zero.
    """
    if runs < 1 or warm_up < 0:
        raise ValueError(
            f"runs must be 1 or more and warm_up 0 or more, got {runs} runs and {warm_up}"
        )
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    finish = _finisher(device)
    with torch.no_grad():
        for _ in range(warm_up):
            module(*inputs)
        totals = [_time_whole(module, inputs, finish) for _ in range(runs)]
        parts = [_time_parts(module, inputs, finish) for _ in range(runs)]
    names = parts[0].keys()
    return Latency(
        total=_spread(totals),
        by_module={name: _spread([run[name] for run in parts]) for name in names},
        device=str(device),
        threads=torch.get_num_threads(),
    )


def _time_whole(module: nn.Module, inputs: Any, finish: Callable[[], None]) -> float:
    finish()
    started = time.perf_counter()
    module(*inputs)
    finish()
    return _MILLISECONDS * (time.perf_counter() - started)


def _time_parts(module: nn.Module, inputs: Any, finish: Callable[[], None]) -> dict[str, float]:
    """Every moment belongs to the innermost part that runs then."""
    own: defaultdict[str, float] = defaultdict(float)
    started = 0.0

    def stop_the_clock() -> None:
        nonlocal started
        finish()
        now = time.perf_counter()
        own[running.name] += _MILLISECONDS * (now - started)
        started = now

    with RunningModule(module, stop_the_clock) as running:
        finish()
        started = time.perf_counter()
        module(*inputs)
    return roll_up(own, module, 0.0)


def _finisher(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _spread(times: Sequence[float]) -> Spread:
    return Spread(statistics.median(times), min(times), max(times))
