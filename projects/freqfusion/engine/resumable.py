"""A trainer that is interrupted and goes on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from torch import nn

from freqfusion.data.bad_samples import CountedBatches, SkippedImages
from freqfusion.engine.checkpoint import (
    Asked,
    RunCheckpointer,
    Saving,
    process_state,
    remove_leftovers,
    restore_process,
    signals_noted,
)
from freqfusion.engine.curves import cut_curves, has_scores
from freqfusion.engine.training_step import unwrapped

logger = logging.getLogger(__name__)


class ResumableTrainer(DefaultTrainer):
    """``DefaultTrainer`` whose interrupted runs go on as if they had not been interrupted.

    A subclass sets ``checkpointer``, ``tally`` and ``asked``, and has ``saving()`` as a hook.
    """

    checkpointer: RunCheckpointer
    tally: SkippedImages
    asked: Asked
    iter: int
    start_iter: int
    missed_evaluation = False

    @property
    def plain_model(self) -> nn.Module:
        """The model without a wrapper for several processes."""
        return unwrapped(self.model)

    def saving(self) -> Saving:
        """Goes before the evaluation, which takes long and may fail."""
        node = self.cfg.SOLVER
        return Saving(
            self.checkpointer,
            self.asked,
            period=node.CHECKPOINT_PERIOD,
            minutes=node.CHECKPOINT.MINUTES,
            keep_last=node.CHECKPOINT.KEEP_LAST,
        )

    def process_state(self) -> dict[str, Any]:
        """What this process has for itself."""
        own = process_state(self.plain_model, is_main=comm.is_main_process())
        return {**own, "tally": self.tally.state_dict()}

    def resume_or_load(self, resume: bool = True) -> None:
        """Load ``MODEL.WEIGHTS``, or go on from the newest checkpoint of the output folder.

        Without any checkpoint ``resume`` starts from the beginning, with a warning.
        """
        folder = self.cfg.OUTPUT_DIR
        if resume and comm.is_main_process():
            remove_leftovers(Path(folder))
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
        with signals_noted(self.asked):
            return super().train()

    def before_train(self) -> None:
        """Have curves end where the run goes on, and do an evaluation that was not come to."""
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
        """With the place in the order of the images."""
        state: dict[str, Any] = super().state_dict()
        loader = self._trainer.data_loader
        return {**state, "loader": loader.state_dict()} if _has_place(loader) else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """From a checkpoint of this or of Detectron2's trainer, which does not know the place."""
        super().load_state_dict(state_dict)
        loader = self._trainer.data_loader
        if "loader" in state_dict and _has_place(loader):
            loader.load_state_dict(state_dict["loader"])
        else:
            logger.warning("The checkpoint does not say which images come next: they begin anew")


def _has_place(loader: Any) -> bool:
    """Not one from elsewhere, such as a subclass's own."""
    return isinstance(loader, CountedBatches)
