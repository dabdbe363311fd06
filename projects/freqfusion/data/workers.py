"""Run a function over many items, or derive many files, in several processes and in order."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

_CHUNK = 8

Item = TypeVar("Item")
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


def progress(
    items: Iterable[Item], title: str, unit: str, *, total: int | None = None
) -> Iterator[Item]:
    """Yield the items, with a bar on a terminal and one line at the end in a log file.

    ``total`` is for items without a length.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=title, unit=unit, total=total)
        return
    started, count = time.perf_counter(), 0
    for item in items:
        yield item
        count += 1
    seconds = time.perf_counter() - started
    sys.stderr.write(f"{title}: {count} {unit}{'s' * (count != 1)} in {seconds:.1f} s\n")


def run_in_order(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    title: str,
    shown: bool,
    unit: str = "scene",
) -> list[Result]:
    """Return ``[function(job) for job in jobs]``, computed by ``workers`` processes.

    Processes are spawned, so ``function`` and the jobs must be picklable and a calling script
    needs its ``if __name__ == "__main__"`` guard. Few jobs, or one worker, run in this process.
    """
    count = min(workers, -(-len(jobs) // _CHUNK))

    def with_bar(results: Iterable[Result]) -> list[Result]:
        return list(progress(results, title, unit, total=len(jobs)) if shown else results)

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


@dataclass(frozen=True, slots=True)
class Derived:
    """What one step wrote to ``folder``, and how many files were there already."""

    folder: Path
    written: int
    present: int

    def sentence(self) -> str:
        """Return one line for the user."""
        return f"{self.folder}: {self.written} written, {self.present} there already"


@dataclass(frozen=True, slots=True)
class PreparationJob:
    """A file to derive, what it is derived from, and the table for it."""

    source: Path
    target: Path
    table: Any = None


@dataclass(frozen=True, slots=True)
class PreparationOptions:
    """Processes (None: one a processor), whether to write again what is there, and a bar."""

    workers: int | None = None
    overwrite: bool = False
    progress: bool = True

    def run(
        self,
        function: Callable[[PreparationJob], Result],
        jobs: Sequence[PreparationJob],
        title: str,
    ) -> list[Result]:
        """Call ``function`` for each job, in several processes, and return the results."""
        return run_in_order(
            function,
            jobs,
            workers=check_workers(self.workers),
            title=title,
            shown=self.progress and bool(jobs),
            unit="image",
        )

    def derive(
        self,
        function: Callable[[PreparationJob], None],
        jobs: Iterable[PreparationJob],
        folder: Path,
    ) -> Derived:
        """Write the target of each job where it is wanted."""
        jobs = list(jobs)
        wanted = [job for job in jobs if self.wants(job.target)]
        self.run(function, wanted, folder.name)
        return Derived(folder, len(wanted), len(jobs) - len(wanted))

    def wants(self, target: Path) -> bool:
        """Return whether a file is to be written."""
        return self.overwrite or not target.is_file()
