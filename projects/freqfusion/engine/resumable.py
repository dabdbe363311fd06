"""A trainer that is interrupted and goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import DefaultTrainer
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import TensorboardXWriter
from torch import nn

from freqfusion.data.bad_samples import CountedBatches, SkippedImages
from freqfusion.engine.checkpoint import (
    RunCheckpointer,
    Saving,
    StopRequest,
    process_state,
    remove_unfinished,
    restore_process,
    signals_recorded,
)
from freqfusion.engine.training_step import unwrapped

logger = logging.getLogger(__name__)


class ResumableTrainer(DefaultTrainer):
    """``DefaultTrainer`` whose interrupted runs go on as if they had not been interrupted.

    A subclass sets ``checkpointer``, ``tally``, ``stop_request``, and has ``saving()`` as a hook.
    """

    checkpointer: RunCheckpointer
    tally: SkippedImages
    stop_request: StopRequest
    iter: int
    start_iter: int
    missed_evaluation = False

    @property
    def plain_model(self) -> nn.Module:
        """Return the model without a wrapper for several processes."""
        return unwrapped(self.model)

    def saving(self) -> Saving:
        """Return the hook that saves; it goes before the evaluation, which may fail."""
        node = self.cfg.SOLVER
        return Saving(
            self.checkpointer,
            self.stop_request,
            period=node.CHECKPOINT_PERIOD,
            minutes=node.CHECKPOINT.MINUTES,
            keep_last=node.CHECKPOINT.KEEP_LAST,
        )

    def process_state(self) -> dict[str, Any]:
        """Return what this process has for itself."""
        own = process_state(self.plain_model, is_main=comm.is_main_process())
        return {**own, "tally": self.tally.state_dict()}

    def resume_or_load(self, resume: bool = True) -> None:
        """Load ``MODEL.WEIGHTS``, or go on from the newest checkpoint of the output folder.

        Without any checkpoint ``resume`` starts from the beginning, with a warning.
        """
        folder = self.cfg.OUTPUT_DIR
        if resume and comm.is_main_process():
            remove_unfinished(Path(folder))
        found = resume and self.checkpointer.has_checkpoint()
        if resume and not found:
            logger.warning("There is no checkpoint in %s: starting from the beginning", folder)
        content = self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        if found:
            self.start_iter = self.iter + 1
            self._restore_process(content.get("processes"))

    def _restore_process(self, states: Any) -> None:
        count = comm.get_world_size()
        if states is None:
            logger.warning("The checkpoint has no random numbers: they begin anew")
        elif len(states) != count:
            logger.warning(
                "The checkpoint is of %d processes, now there are %d: random numbers begin anew",
                *(len(states), count),
            )
            for state in states if comm.is_main_process() else ():
                self.tally.load_state_dict(state["tally"])
        else:
            own = states[comm.get_rank()]
            restore_process(self.plain_model, own)
            self.tally.load_state_dict(own["tally"])

    def train(self) -> Any:
        """Train; SIGTERM, SIGUSR1 and SIGINT save and end the run at the end of a step.

        Raises:
            Interrupted: after a signal.
            LastSaveFailedError: when what was trained cannot be saved.
        """
        with signals_recorded(self.stop_request):
            return super().train()

    def before_train(self) -> None:
        """Cut curves where the run goes on, and run an evaluation that an interruption left out."""
        start, period, folder = self.start_iter, self.cfg.TEST.EVAL_PERIOD, self.cfg.OUTPUT_DIR
        self.missed_evaluation = False
        if start > 0:
            if comm.is_main_process():
                cut_curves(folder, start, self._hooks)
            missed = period > 0 and start % period == 0 and start < self.max_iter
            missed = missed and not has_scores(folder, start - 1)
            self.missed_evaluation = bool(comm.all_gather(missed)[0])
            # What is evaluated is the last finished iteration.
            self.iter = self.storage.iter = start - 1
        super().before_train()
        self.iter = self.storage.iter = start

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the position in the order of the images."""
        state: dict[str, Any] = super().state_dict()
        loader = self._trainer.data_loader
        return {**state, "loader": loader.state_dict()} if _has_position(loader) else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of this trainer, or of Detectron2's, which has no position."""
        super().load_state_dict(state_dict)
        loader = self._trainer.data_loader
        if "loader" in state_dict and _has_position(loader):
            loader.load_state_dict(state_dict["loader"])
        else:
            logger.warning("The checkpoint does not say which images come next: they begin anew")


def _has_position(loader: Any) -> bool:
    """Return whether a loader is not one from elsewhere, such as a subclass's own."""
    return isinstance(loader, CountedBatches)


def cut_curves(folder: str, start: int, hooks: Iterable[Any]) -> None:
    """Forget what was written about iteration ``start`` and later ones, which come again.

    ``metrics.json`` is cut off, also where a line is not whole; TensorBoard is told to do so.
    """
    path = Path(folder) / "metrics.json"
    if path.is_file():
        kept = sum(len(line) for line, _ in _lines(path, start))
        # The writer has the file open already: it stays the same file.
        with open(path, "r+b") as file:
            file.truncate(kept)
    for hook in hooks:
        if isinstance(hook, PeriodicWriter):
            for writer in hook._writers:
                wrapped = getattr(writer, "writer", writer)
                if isinstance(wrapped, TensorboardXWriter):
                    wrapped._writer_args["purge_step"] = start


def has_scores(folder: str, iteration: int) -> bool:
    """Return whether the scores of an evaluation behind this iteration were written."""
    path = Path(folder) / "metrics.json"
    return path.is_file() and any(
        values["iteration"] == iteration and any("/" in name for name in values)
        for _, values in _lines(path, iteration + 1)
    )


def _lines(path: Path, start: int) -> Iterable[tuple[bytes, dict[str, Any]]]:
    """Yield lines up to the first that is cut off or is about ``start`` or a later iteration."""
    with open(path, "rb") as file:
        for line in file:
            try:
                values = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or values.get("iteration", start) >= start:
                return
            yield line, values
