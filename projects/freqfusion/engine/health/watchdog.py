"""Say which process hangs, in which step and where."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class Watchdog(HookBase):
    """Log an error when no step has finished for some minutes, and again after as many more.

    It stops nothing: an evaluation that takes longer is named too, by the stack. Processes that
    wait for one another give up after the same time, which ends the run.

    Args:
        minutes: Above 0.
        report: What is done with the sentence.
    """

    def __init__(self, minutes: float, report: Callable[[str], object] = logger.error) -> None:
        self._seconds, self._report = 60.0 * minutes, report
        self._stop = threading.Event()
        self._beat, self._thread = 0.0, threading.get_ident()
        self._rank = comm.get_rank()

    def before_train(self) -> None:
        """Begin to watch the thread that trains."""
        self._thread, self._beat = threading.get_ident(), time.monotonic()
        self._stop.clear()
        if dist.is_initialized():
            set_timeout(self._seconds)
        # The trainer is a weak reference: it is asked here only, for the number of the step.
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def after_step(self) -> None:
        """A step has finished."""
        self._beat = time.monotonic()

    def after_train(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _watch(self) -> None:
        told = 0
        while not self._stop.wait(min(self._seconds / 4, 5.0)):
            missed = int((time.monotonic() - self._beat) / self._seconds)
            if missed > told:
                self._report(self._sentence(time.monotonic() - self._beat))
            told = missed

    def _sentence(self, seconds: float) -> str:
        frame: Any = sys._current_frames().get(self._thread)
        stack = "".join(traceback.format_stack(frame)) if frame else "  the thread has ended\n"
        return (
            f"rank {self._rank}: no step has finished for {seconds / 60:.1f} minutes, in iteration"
            f" {self.trainer.iter}; it is here:\n{stack}"
        )


def set_timeout(seconds: float) -> None:
    """How long processes of the group wait for one another."""
    from torch.distributed import distributed_c10d

    # Public in newer versions only.
    name = "set_timeout" if hasattr(distributed_c10d, "set_timeout") else "_set_pg_timeout"
    getattr(distributed_c10d, name)(timedelta(seconds=seconds))
