"""Run a function over many items in several processes, in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

_CHUNK = 8

Job = TypeVar("Job")
Result = TypeVar("Result")


def default_workers() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_workers(workers: int | None) -> int:
    """Return the number of processes that ``workers`` means (None: one a processor), at least 1."""
    if workers is None:
        return default_workers()
    if workers < 1:
        raise ValueError(f"workers must be 1 or more, not {workers}")
    return workers


def run_in_order(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    title: str,
    progress: bool,
    unit: str = "scene",
) -> list[Result]:
    """Return ``[function(job) for job in jobs]``, computed by ``workers`` processes.

    Processes are spawned, so ``function`` and the jobs must be picklable and a calling script
    needs its ``if __name__ == "__main__"`` guard. Few jobs, or one worker, run in this process.
    """
    count = min(workers, -(-len(jobs) // _CHUNK))

    def with_bar(results: object) -> list[Result]:
        return list(tqdm(results, total=len(jobs), desc=title, unit=unit, disable=not progress))

    if count <= 1:
        return with_bar(map(function, jobs))
    try:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            return with_bar(pool.map(function, jobs, chunksize=_CHUNK))
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"one of {count} worker processes ended before its work was done; put the call of a"
            ' script under `if __name__ == "__main__":`, and if it is there, memory may have run'
            " out: use fewer workers"
        ) from error
