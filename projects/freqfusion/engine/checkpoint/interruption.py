"""Signals by which a machine asks a run to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKING = (signal.SIGTERM, signal.SIGUSR1)


class Interrupted(BaseException):
    """A run was asked to end, and has saved; its text says how to go on.

    No Exception, because nothing went wrong: nothing is to be logged as an error.
    """


class LastSaveFailedError(BaseException):
    """What was trained could not be saved; its text says why. Not a defect, hence no Exception."""


class Asked:
    """Which signal has come, if any."""

    name = ""


@contextmanager
def signals_noted(asked: Asked) -> Iterator[None]:
    """Meanwhile SIGTERM and SIGUSR1 are noted; in the main thread, elsewhere they do as before."""

    def note(number: int, _: FrameType | None) -> None:
        asked.name = signal.Signals(number).name

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, note)) for number in _ASKING]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
