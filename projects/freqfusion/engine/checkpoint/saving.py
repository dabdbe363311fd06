"""When a run saves, and ends because it was asked to."""

from __future__ import annotations

import logging
import time
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm

from freqfusion.engine.checkpoint.interruption import Asked, Interrupted, LastSaveFailedError
from freqfusion.engine.checkpoint.run_checkpointer import RunCheckpointer

logger = logging.getLogger(__name__)


class Saving(HookBase):
    """Save every so many iterations or minutes, at the end, and when a signal asks to end.

    Runs in all processes, after everything of a step that changes the model. A checkpoint that
    cannot be written is told in the log and training goes on, except for the last one.

    Args:
        checkpointer: Of the run.
        asked: Says whether a signal has come.
        period: Iterations.
        minutes: Time after which to save too; 0 for none.
        keep_last: Numbered checkpoints that stay; 0 for all.
    """

    def __init__(
        self,
        checkpointer: RunCheckpointer,
        asked: Asked,
        *,
        period: int,
        minutes: float = 0.0,
        keep_last: int = 0,
    ) -> None:
        self._checkpointer, self._asked = checkpointer, asked
        self._period, self._minutes, self._keep_last = period, minutes, keep_last
        self._saved_at = time.monotonic()

    def before_train(self) -> None:
        """The minutes are counted from here."""
        self._saved_at = time.monotonic()

    def after_step(self) -> None:
        """Save where it is time to.

        Raises:
            Interrupted: after saving, when a signal has come to any process.
            LastSaveFailedError: when the last checkpoint of the run cannot be written.
        """
        done = self.trainer.iter + 1
        signal, waited = self._agreed()
        last = done >= self.trainer.max_iter
        if not (last or signal or waited or done % self._period == 0):
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

    def _agreed(self) -> tuple[str, bool]:
        """The signal that came, if any, and whether the minutes are over: the same everywhere."""
        minutes = (time.monotonic() - self._saved_at) / 60
        own = (self._asked.name, 0 < self._minutes <= minutes)
        if comm.get_world_size() == 1:
            return own
        all_of_them: list[tuple[str, bool]] = comm.all_gather(own)
        return max(name for name, _ in all_of_them), all_of_them[0][1]

    def _save(self, name: str) -> str:
        """Save; what went wrong in the main process, in all of them."""
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
        self._saved_at = time.monotonic()
        answers: list[str] = comm.all_gather(problem)
        return answers[0]
