"""Time two forms of one computation against each other."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of the runs of both forms, in the order in which they alternated."""

    ours: list[float]
    reference: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast we are: the ratio of the medians."""
        return statistics.median(self.reference) / statistics.median(self.ours)

    @property
    def spread(self) -> tuple[float, float]:
        """Quartiles of the ratio, run by run."""
        pairs = zip(self.ours, self.reference, strict=True)
        return quartiles([reference / ours for ours, reference in pairs])


def quartiles(values: list[float]) -> tuple[float, float]:
    """The lower and the upper quartile; both are the value where there is only one."""
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def copy_rate(runs: int) -> float:
    """Bytes per second, read and written, of copying 64 MiB: what the memory gives now."""
    source, target = torch.ones(1 << 24), torch.empty(1 << 24)
    times = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - started)
    return 2 * 4 * source.numel() / statistics.median(times[1:])


def compare(ours: Callable[[], object], reference: Callable[[], object], runs: int) -> Comparison:
    """Run both forms in turn, so that a change of the machine's speed meets both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for warm_up in (True, *[False] * runs):
        for form, list_ in zip((ours, reference), times, strict=True):
            started = time.perf_counter()
            form()
            if not warm_up:
                list_.append(1000 * (time.perf_counter() - started))
    return Comparison(*times)
