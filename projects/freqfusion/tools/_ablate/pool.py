"""Run what is not done yet, several at a time, and say how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from freqfusion.tools._ablate.rows import is_done, write_json
from freqfusion.tools._ablate.runs import Run

Train = Callable[[Run], dict[str, Any]]
Say = Callable[[str], None]


def waiting(runs: Sequence[Run]) -> list[Run]:
    """The runs without a row of the same experiment."""
    return [run for run in runs if not is_done(run.row, run.fingerprint())]


def run_all(
    runs: Sequence[Run],
    train: Train,
    *,
    jobs: int = 1,
    metrics: Mapping[str, Mapping[str, str]] | None = None,
    stop: Callable[[], None] = lambda: None,
) -> list[str]:
    """Train all, ``jobs`` at a time, and write a row as each one ends.

    Args:
        runs: In the order in which they are started.
        train: Makes the row of a run; a RuntimeError or OSError is a failure of that run alone.
        jobs: Runs at a time.
        metrics: Titles and paths of the scores to tell, by experiment.
        stop: Ends what ``train`` has under way; called when the user interrupts.

    Returns:
        What failed, a sentence each.
    """
    failed: list[str] = []
    with _Progress(len(runs), jobs) as progress, ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(_timed, train, run): run for run in runs}
        try:
            left = set(started)
            while left:
                ended, left = wait(left, return_when=FIRST_COMPLETED)
                for future in ended:
                    run = started[future]
                    shown = (metrics or {}).get(run.experiment, {})
                    failed += _finish(run, future, shown, progress)
        except BaseException:
            for future in started:
                future.cancel()
            stop()
            raise
    return failed


def _timed(train: Train, run: Run) -> tuple[dict[str, Any], float]:
    began = time.perf_counter()
    return train(run), time.perf_counter() - began


def _finish(
    run: Run,
    future: Future[tuple[dict[str, Any], float]],
    shown: Mapping[str, str],
    progress: _Progress,
) -> list[str]:
    try:
        row, seconds = future.result()
    except (RuntimeError, OSError, ValueError) as error:
        progress.tell(f"{run.name} failed: {error}", None)
        return [f"{run.name}: {error}"]
    write_json(run.row, row)
    scores = ", ".join(f"{title} {_number(row['scores'].get(p))}" for title, p in shown.items())
    progress.tell(f"{run.name}: {scores or 'done'} ({seconds:.0f} s)", seconds)
    return []


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1f}"


class _Progress:
    """A line for each run with the time that is left, and a bar where someone looks."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.jobs = total, jobs
        self.done, self.spent = 0, list[float]()
        self.bar: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit="run")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def tell(self, text: str, seconds: float | None) -> None:
        """One more has ended, after so many seconds, or failed."""
        self.done += 1
        if seconds is not None:
            self.spent.append(seconds)
        line = f"[{self.done}/{self.total}] {text}{self._left()}"
        if self.bar is None:
            print(line, flush=True)
        else:
            self.bar.write(line)
            self.bar.update()

    def _left(self) -> str:
        left = self.total - self.done
        if not left or not self.spent:
            return ""
        return f"; {left} left, about {clock(left * sum(self.spent) / len(self.spent) / self.jobs)}"


def clock(seconds: float) -> str:
    """Hours and minutes, such as 1:05 h, or minutes and seconds, such as 4:10 min."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02} h"
    return f"{whole // 60}:{whole % 60:02} min"
