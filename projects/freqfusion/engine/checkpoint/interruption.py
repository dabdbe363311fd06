"""Signals by which a machine asks a run to end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.utils import comm

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells have it
# Ctrl-C reaches a process from the terminal, and from the process that started it.
_ONE_KEYSTROKE = 1.0  # seconds
_ONCE_MORE = b"\nending after this step; Ctrl-C once more ends at once, without saving\n"


class Interrupted(BaseException):
    """A run was asked to end, and has saved; its text says how to go on.

    No Exception, because nothing went wrong: nothing is to be logged as an error.

    Args:
        text: Says how to go on.
        by: Name of the signal.
    """

    def __init__(self, text: str, by: str) -> None:
        super().__init__(text)
        self.code = INTERRUPTED if by == "SIGINT" else 0


class LastSaveFailedError(BaseException):
    """What was trained could not be saved; its text says why. Not a defect, hence no Exception."""


class Asked:
    """Which signal has come, if any."""

    name = ""
    since = 0.0


@contextmanager
def signals_noted(asked: Asked) -> Iterator[None]:
    """Meanwhile signals are noted; in the main thread, elsewhere they do as before.

    A second SIGINT is a KeyboardInterrupt.
    """

    def note(number: int, _: Any) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if asked.name == "SIGINT":  # torchrun sends SIGTERM after it
            if name == "SIGINT" and now - asked.since > _ONE_KEYSTROKE:
                raise KeyboardInterrupt
            return
        if name == "SIGINT" and comm.is_main_process():
            os.write(2, _ONCE_MORE)
        asked.name, asked.since = name, now

    with handled_signals(note):
        yield


@contextmanager
def handled_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Meanwhile have a handler for the signals that ask a run to end, in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in ASKING]
    try:
        yield
    finally:
        for number, earlier in before:
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)
