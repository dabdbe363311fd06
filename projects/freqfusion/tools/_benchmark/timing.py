"""Time two forms of one computation against each other."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of the runs of both forms, in the order in which they alternated."""

    ours: list[float]
    reference: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast we are: the ratio of the medians."""
        return statistics.median(self.reference) / statistics.median(self.ours)


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
