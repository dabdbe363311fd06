"""Hooks and writers of a training: evaluations, best checkpoint, averaged weights."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, default_writers
from detectron2.engine.hooks import EvalHook, PreciseBN
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage
from torch import nn
from torch.optim.swa_utils import AveragedModel

from freqfusion.data.bad_samples import CountedBatches, SkippedImages, skipped_summary
from freqfusion.data.randomness import separate_randomness
from freqfusion.engine.checkpoint import save_file
from freqfusion.files import write_whole

logger = logging.getLogger(__name__)


class Evaluation(EvalHook):
    """Detectron2's, but for a training that failed at its end."""

    def after_train(self) -> None:
        """Not when the last step has failed, or its checkpoint."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class RepeatablePreciseBN(PreciseBN):
    """Detectron2's, with the same images each time, so that a resumed run does not differ."""

    def __init__(self, hook: PreciseBN) -> None:
        super().__init__(hook._period, hook._model, hook._data_loader, hook._num_iter)

    def update_stats(self) -> None:
        """Measure statistics on the first images of the order, which is that of the training."""
        trainer: Any = self.trainer
        loader: Any = self._data_loader
        self._data_iter: Any = None
        if isinstance(loader, CountedBatches):
            loader.load_state_dict({**trainer.state_dict()["loader"], "taken": 0})
        with separate_randomness(0):
            super().update_stats()


class AfterEvaluation(HookBase):
    """Runs when Detectron2's ``EvalHook`` of the same period does, in every process.

    Register it after that one, or before it for an action that prepares the evaluation.

    Args:
        period: Of the evaluation; 0 for the end of the training only.
        action: What to run; a subclass may have ``run`` instead.
    """

    def __init__(self, period: int, action: Callable[[], object] | None = None) -> None:
        self._period, self._action = period, action

    def run(self) -> None:
        """Run the action."""
        if self._action is not None:
            self._action()

    def after_step(self) -> None:
        """Run every ``period`` iterations but the last one, which ``after_train`` is for."""
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self.run()

    def after_train(self) -> None:
        """Run at the end of a training that came to its end."""
        if self.trainer.iter >= self.trainer.max_iter:
            self.run()


def log_skipped(skipped_images: SkippedImages) -> None:
    """Log which images were left out of a training, in all processes together."""
    skipped = skipped_images.gathered()
    if skipped and comm.is_main_process():
        logger.warning("%s", skipped_summary(skipped_images.name, skipped))


def finished_iterations(trainer: Any) -> int:
    """Return how many iterations are done; a trainer counts the current one from 0."""
    return min(int(trainer.iter) + 1, int(trainer.max_iter))


class BestCheckpoint(AfterEvaluation):
    """Keep the weights of the best evaluation in ``model_best.pth``.

    They can be given as ``MODEL.WEIGHTS``. ``model_best.json`` beside them has the score, so that a
    resumed run knows what it has to beat, whichever checkpoint it goes on from. Unlike Detectron2's
    ``BestCheckpointer`` it does not become the checkpoint that ``--resume`` takes.

    Args:
        period: Of the evaluation.
        model: Whose weights are kept.
        folder: Output folder of the run.
        metric: Name of the score, such as ``"panoptic_seg/PQ"``. One with "loss" in it is better
            when it is smaller. nan never is the best.
    """

    def __init__(self, period: int, model: nn.Module, folder: str, metric: str) -> None:
        super().__init__(period)
        self._model, self._metric = model, metric
        self._weights = Path(folder) / "model_best.pth"
        self._note = Path(folder) / "model_best.json"
        self._sign = -1 if "loss" in metric else 1
        self.best: float | None = None

    def before_train(self) -> None:
        """A resumed run goes on from the best so far."""
        if self.trainer.start_iter > 0 and self._note.is_file() and self._weights.is_file():
            note = json.loads(self._note.read_text(encoding="utf-8"))
            if note["metric"] == self._metric:
                self.best = note["value"]

    def run(self) -> None:
        """Save the weights if the evaluation was the best."""
        if not comm.is_main_process():
            return
        latest = self.trainer.storage.latest()
        if self._metric not in latest:
            known = (name for name in latest if "/" in name)
            logger.warning(
                "TEST.BEST_CHECKPOINT %s is no score of this run, so no checkpoint is kept for it;"
                " there are %s",
                *(self._metric, ", ".join(sorted(known)) or "none"),
            )
            return
        value = float(latest[self._metric][0])
        if math.isnan(value) or (
            self.best is not None and self._sign * value <= self._sign * self.best
        ):
            return
        self._save(value)

    def _save(self, value: float) -> None:
        """Weights first: a note without its weights would keep later ones from being saved."""
        iterations = finished_iterations(self.trainer)
        # As in Detectron2's checkpoints, the number of the last iteration, from 0.
        weights = {"model": self._model.state_dict(), "iteration": iterations - 1}
        note = {"metric": self._metric, "value": value, "iteration": iterations}
        try:
            save_file(self._weights, weights)
            write_whole(self._note, json.dumps(note) + "\n")
        except OSError as error:
            logger.error("%s; training goes on", error)
            return
        logger.info("%s is %.5g, the best so far: wrote %s", *(self._metric, value, self._weights))
        self.best = value


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give buffers, training flags and other attributes of all modules back as they were.

    That is running statistics of normalizations, but also averages that some losses keep. No
    gradients are computed meanwhile.
    """
    saved = [
        (
            module,
            dict(vars(module)),
            {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)},
        )
        for module in model.modules()
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for module, attributes, buffers in saved:
            for name in set(vars(module)) - set(attributes):
                del vars(module)[name]
            vars(module).update(attributes)
            for name, buffer in buffers.items():
                getattr(module, name).copy_(buffer)


class WeightAverage(HookBase):
    """Average the weights after each step; buffers, such as running statistics, are the newest.

    The average of step n keeps ``min(decay, (1 + n) / (10 + n))`` of what it was, so that the first
    weights are soon forgotten. It is part of checkpoints, and ends as ``model_ema.pth``, which can
    be given as ``MODEL.WEIGHTS``. All processes have the same.

    Args:
        model: Whose weights are averaged; not wrapped for several processes.
        decay: Above 0, below 1.
        folder: Output folder of the run.
    """

    def __init__(self, model: nn.Module, decay: float, folder: str) -> None:
        self._model, self._folder = model, folder
        self._average = AveragedModel(model, multi_avg_fn=_averaging(decay))
        self._weights: list[torch.Tensor] = []

    def after_step(self) -> None:
        """Average the weights of this step."""
        self._average.update_parameters(self._model)

    def swap(self) -> None:
        """Put the average into the model; the second time, the model's own weights."""
        with torch.no_grad():
            if self._weights:
                values, self._weights = self._weights, []
            else:
                self._weights = [p.detach().clone() for p in self._model.parameters()]
                values = list(self._average.module.parameters())
            for parameter, value in zip(self._model.parameters(), values, strict=True):
                parameter.copy_(value)

    def after_train(self) -> None:
        """Write ``model_ema.pth`` at the end of a training that came to its end."""
        if self.trainer.iter < self.trainer.max_iter or not comm.is_main_process():
            return
        content = {
            "model": self._average.module.state_dict(),
            "iteration": finished_iterations(self.trainer) - 1,
        }
        save_file(Path(self._folder) / "model_ema.pth", content)

    def state_dict(self) -> dict[str, Any]:
        """Return the average, and of how many steps it is."""
        return dict(self._average.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the average of a checkpoint."""
        self._average.load_state_dict(state)


def _averaging(decay: float) -> Any:
    @torch.no_grad()
    def average(means: Sequence[torch.Tensor], new: Sequence[torch.Tensor], count: Any) -> None:
        """``count`` is the number of averages before this one."""
        steps = int(count)
        keep = min(decay, (1 + steps) / (10 + steps))
        for mean, value in zip(means, new, strict=True):
            mean.lerp_(value.to(mean.dtype), 1 - keep)

    return average


class FailSafeWriter(EventWriter):
    """Runs another writer, and switches it off with a warning the first time that it fails."""

    def __init__(self, writer: EventWriter) -> None:
        self.writer, self._is_on = writer, True

    def write(self) -> None:
        """Write; without the writer forget images and histograms, which would pile up."""
        self._try(self.writer.write)
        if not self._is_on:
            storage = get_event_storage()
            storage.clear_images()
            storage.clear_histograms()

    def close(self) -> None:
        """Close what the writer has opened."""
        self._try(self.writer.close)

    def _try(self, act: Callable[[], object]) -> None:
        if not self._is_on:
            return
        try:
            act()
        except Exception as error:
            self._is_on = False
            hint = ": pip install tensorboard" if isinstance(error, ImportError) else ""
            logger.warning(
                "%s is switched off for this run, since it failed (%s: %s)%s",
                *(type(self.writer).__name__, type(error).__name__, error, hint),
            )


def build_writers(folder: str, max_iter: int) -> list[EventWriter]:
    """Return the writers of the log, of ``metrics.json`` and of TensorBoard files."""
    return [
        FailSafeWriter(writer) if isinstance(writer, TensorboardXWriter) else writer
        for writer in default_writers(folder, max_iter)
    ]
