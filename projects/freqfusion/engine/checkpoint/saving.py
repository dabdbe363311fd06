"""When a run saves and when it ends by a signal; what each of its processes has for itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from freqfusion.data.randomness import capture, restore
from freqfusion.engine.checkpoint.run_checkpointer import RunCheckpointer

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
INTERRUPTED = 128 + signal.SIGINT  # exit code, as shells have it
# Ctrl-C reaches a process from the terminal, and from the process that started it.
_ONE_KEYSTROKE = 1.0  # seconds
_ONCE_MORE = b"\nending after this step; Ctrl-C once more ends at once, without saving\n"
# Averages over iterations that Detectron2's dense detectors keep outside of their state.
_AVERAGES = ("loss_normalizer",)


class Interrupted(BaseException):
    """Raised where a run got a request to stop and has saved; its text says how to resume.

    No Exception, because nothing went wrong: nothing is to be logged as an error.

    Args:
        text: Says how to go on.
        by: Name of the signal.
    """

    def __init__(self, text: str, by: str) -> None:
        super().__init__(text)
        self.code = INTERRUPTED if by == "SIGINT" else 0


class LastSaveFailedError(BaseException):
    """Raised where the last checkpoint fails, with the reason. No defect, hence no Exception."""


class StopRequest:
    """Holds the signal that requested a run to stop, if any, and when."""

    signal_name = ""
    since = 0.0


@contextmanager
def signals_recorded(request: StopRequest) -> Iterator[None]:
    """Record signals meanwhile in the main thread; elsewhere they do as before.

    A second SIGINT is a KeyboardInterrupt.
    """

    def note(number: int, _: Any) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if request.signal_name == "SIGINT":  # torchrun sends SIGTERM after it
            if name == "SIGINT" and now - request.since > _ONE_KEYSTROKE:
                raise KeyboardInterrupt
            return
        if name == "SIGINT" and comm.is_main_process():
            os.write(2, _ONCE_MORE)
        request.signal_name, request.since = name, now

    with handled_signals(note):
        yield


@contextmanager
def handled_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have a handler meanwhile for the signals that ask a run to end, in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, earlier in before:
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)


class Saving(HookBase):
    """Save every so many iterations, at the end, and when a signal asks to end.

    Runs in all processes, after everything of a step that changes the model. A checkpoint that
    cannot be written is logged as an error and training goes on, except for the last one.

    Args:
        checkpointer: Of the run.
        request: Says whether a signal has come.
        period: Iterations.
        keep_last: Numbered checkpoints that stay; 0 for all.
    """

    def __init__(
        self,
        checkpointer: RunCheckpointer,
        request: StopRequest,
        *,
        period: int,
        keep_last: int = 0,
    ) -> None:
        self._checkpointer, self._request = checkpointer, request
        self._period, self._keep_last = period, keep_last

    def after_step(self) -> None:
        """Save where it is time to.

        Raises:
            Interrupted: after saving, when a signal has come to any process.
            LastSaveFailedError: when the last checkpoint of the run cannot be written.
        """
        done = self.trainer.iter + 1
        signal = max(comm.all_gather(self._request.signal_name))
        last = done >= self.trainer.max_iter
        if not (last or signal or done % self._period == 0):
            return
        problem = self._save("model_final" if last else f"model_{done - 1:07d}")
        if problem and (last or signal):
            raise LastSaveFailedError(problem)
        if signal and not last:
            folder = self._checkpointer.save_dir
            raise Interrupted(
                f"ended by {signal} after {done} of {self.trainer.max_iter} iterations, which are"
                f" saved in {folder}; the same command with --resume goes on",
                signal,
            )

    def _save(self, name: str) -> str:
        """Save, and return what went wrong in the main process, in all of them."""
        trainer: Any = self.trainer
        states = comm.gather(trainer.process_state())
        problem = ""
        try:
            self._checkpointer.save(name, iteration=trainer.iter, processes=states)
            if self._keep_last and comm.is_main_process():
                self._checkpointer.remove_old(self._keep_last)
        except OSError as error:
            problem = str(error)
            logger.error("%s; the checkpoint before it stays", problem)
        answers: list[str] = comm.all_gather(problem)
        return answers[0]


def process_state(model: nn.Module, *, is_main: bool) -> dict[str, Any]:
    """Return plain numbers and tensors, which can be read without running code.

    Args:
        model: Without a wrapper for several processes.
        is_main: The model's buffers are saved with its weights, in the main process.
    """
    return {
        "randomness": capture(),
        "buffers": {} if is_main else {name: b.cpu() for name, b in model.named_buffers()},
        "averages": _averages(model),
    }


def restore_process(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Restore what this process had for itself."""
    restore(state["randomness"])
    buffers = dict(model.named_buffers())
    for name, value in state["buffers"].items():
        if name in buffers and buffers[name].shape == value.shape:
            buffers[name].copy_(value)
    modules = dict(model.named_modules())
    for name, values in state["averages"].items():
        modules[name].__dict__.update(values)


def _averages(model: nn.Module) -> dict[str, dict[str, Any]]:
    found = {
        name: {key: vars(module)[key] for key in _AVERAGES if key in vars(module)}
        for name, module in model.named_modules()
    }
    return {name: values for name, values in found.items() if values}
