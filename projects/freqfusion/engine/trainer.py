"""Detectron2's trainer with this project's data, evaluators and hooks."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import proxy

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter, PreciseBN
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter
from torch import nn

from freqfusion.data.bad_samples import CountedBatches, skipped_images_of
from freqfusion.data.loaders import evaluation_loader, train_loader
from freqfusion.data.randomness import separate_randomness
from freqfusion.engine.checkpoint import (
    RunCheckpointer,
    Saving,
    StopRequest,
    process_state,
    remove_unfinished,
    restore_process,
    signals_recorded,
)
from freqfusion.engine.health import NonFiniteGuard
from freqfusion.engine.hooks import (
    AfterEvaluation,
    BestCheckpoint,
    Evaluation,
    RepeatablePreciseBN,
    WeightAverage,
    build_writers,
    finished_iterations,
    log_skipped,
)
from freqfusion.engine.results import TRAINING, Scores, evaluate_model, skipped_in, write_results
from freqfusion.engine.solver import build_lr_scheduler, build_optimizer, with_scaled_rate
from freqfusion.engine.training_step import (
    TrainingSteps,
    data_parallel,
    unwrapped,
)
from freqfusion.engine.validation_loss import ValidationLoss, build_validation_loader
from freqfusion.evaluation import build_evaluator
from freqfusion.modeling import with_memory_format

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """``DefaultTrainer`` whose interrupted runs go on as if they had not been interrupted.

    Evaluators are chosen from the data set's metadata. After each evaluation ``results.json`` is
    written to the output folder, and the hooks run that ``TEST.BEST_CHECKPOINT`` and
    ``TEST.VALIDATION_LOSS`` ask for.

    Args:
        cfg: The configuration.
        config_file: The file that it was read from, to be named in ``results.json``.
    """

    iter: int

    def __init__(self, cfg: CfgNode, *, config_file: str = "") -> None:
        # Not Detectron2's: that cannot train on CPUs in several processes, nor in bfloat16.
        TrainerBase.__init__(self)
        self.config_file = config_file
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg = with_scaled_rate(cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self.skipped_images = skipped_images_of(loader)
        count, seen = self.skipped_images.images, cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
        logger.info("%d images to train on: %.1f epochs in all", count, seen / count)
        model = data_parallel(cfg, model)
        self._trainer: Any = self._build_steps(cfg, model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = RunCheckpointer(model, cfg.OUTPUT_DIR, trainer=proxy(self))
        self.stop_request = StopRequest()
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def _build_steps(
        self, cfg: CfgNode, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer
    ) -> TrainingSteps:
        """Return what computes one iteration."""
        node = cfg.SOLVER
        guard = NonFiniteGuard(
            unwrapped(model), policy=node.NON_FINITE, patience=node.NON_FINITE_PATIENCE
        )
        return TrainingSteps(
            model,
            loader,
            optimizer,
            precision=node.AMP.DTYPE if node.AMP.ENABLED else "float32",
            device=torch.device(cfg.MODEL.DEVICE).type,
            parts=node.ACCUMULATE_STEPS,
            guard=guard,
        )

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Return the model, in the memory format that the configuration asks for."""
        return with_memory_format(super().build_model(cfg), cfg)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> CountedBatches:
        """Return batches of ``DATASETS.TRAIN``, augmented as ``INPUT`` says."""
        return train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> CountedBatches:
        """Return the images of a data set, one in a batch."""
        return evaluation_loader(cfg, dataset_name)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> Scores:
        """Return scores on every data set of ``DATASETS.TEST``, and what was left out of them.

        ``evaluators``, one for each, replace those that the metadata names.
        """
        if isinstance(evaluators, DatasetEvaluator):
            evaluators = [evaluators]
        given = dict(zip(cfg.DATASETS.TEST, evaluators, strict=True)) if evaluators else {}

        def prepare(name: str) -> tuple[CountedBatches, DatasetEvaluator]:
            loader = cls.build_test_loader(cfg, name)
            return loader, given.get(name) or cls.build_evaluator(cfg, name)

        return evaluate_model(model, {name: partial(prepare, name) for name in cfg.DATASETS.TEST})

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build what ``SOLVER.OPTIMIZER`` names."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Build what ``SOLVER.LR_SCHEDULER_NAME`` names."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Return the evaluator of a data set; files go to ``output_folder`` or ``inference``."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, folder)

    def build_hooks(self) -> list[HookBase | None]:
        """Return Detectron2's hooks, with ours from the evaluation on."""
        hooks: list[HookBase | None] = super().build_hooks()
        index = next(at for at, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        ours: list[HookBase] = [
            AfterEvaluation(0, partial(log_skipped, self.skipped_images)),
            Evaluation(self.cfg.TEST.EVAL_PERIOD, self._evaluate),
            *self._evaluation_hooks(),
        ]
        hooks[index : index + 1] = [self._saving(), *self._prepared(ours)]
        hooks = [hook for hook in hooks if not isinstance(hook, PeriodicCheckpointer)]
        return [RepeatablePreciseBN(h) if isinstance(h, PreciseBN) else h for h in hooks]

    def _prepared(self, evaluation: list[HookBase]) -> list[HookBase]:
        """Return an evaluation of the average of the weights, where one is configured."""
        node, period = self.cfg.SOLVER.EMA, self.cfg.TEST.EVAL_PERIOD
        if not node.ENABLED:
            return evaluation
        average = WeightAverage(unwrapped(self.model), node.DECAY, self.cfg.OUTPUT_DIR)
        # Checkpoints are to have the average of their own iteration.
        self.register_hooks([average])
        swap = partial(AfterEvaluation, period, average.swap)
        return [swap(), *evaluation, swap()]

    def build_writers(self) -> list[EventWriter]:
        """Return the writers of the log, of ``metrics.json`` and of TensorBoard files."""
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _evaluation_hooks(self) -> list[HookBase]:
        """Return hooks; the best checkpoint may be judged by the validation loss before it."""
        cfg, node, period = self.cfg, self.cfg.TEST, self.cfg.TEST.EVAL_PERIOD
        model = unwrapped(self.model)
        hooks: list[HookBase] = []
        if not cfg.DATASETS.TEST:
            return hooks
        if node.VALIDATION_LOSS.ENABLED:
            hooks.append(ValidationLoss(period, model, lambda: build_validation_loader(cfg)))
        if node.BEST_CHECKPOINT:
            hooks.append(BestCheckpoint(period, model, cfg.OUTPUT_DIR, node.BEST_CHECKPOINT))
        return hooks

    def _evaluate(self) -> Mapping[str, Any]:
        """Test, and write the results; Detectron2 compares the last ones with those expected."""
        # Training draws the same random numbers with and without an evaluation in between.
        with separate_randomness(0):
            results = self.test(self.cfg, unwrapped(self.model))
        self._last_eval_results = results
        if self.cfg.DATASETS.TEST:
            done = finished_iterations(self)
            name = "model_final" if done >= self.max_iter else f"model_{done - 1:07d}"
            checkpoint = Path(self.cfg.OUTPUT_DIR) / f"{name}.pth"
            write_results(
                self.cfg,
                results,
                iteration=done,
                config_file=self.config_file,
                weights=str(checkpoint) if checkpoint.is_file() else None,
                skipped={TRAINING: self.skipped_images.gathered(), **skipped_in(results)},
            )
        return results

    @property
    def plain_model(self) -> nn.Module:
        """Return the model without a wrapper for several processes."""
        return unwrapped(self.model)

    def _saving(self) -> Saving:
        """Return the hook that saves; it goes before the evaluation, which may fail."""
        node = self.cfg.SOLVER
        return Saving(
            self.checkpointer,
            self.stop_request,
            period=node.CHECKPOINT_PERIOD,
            keep_last=node.CHECKPOINT.KEEP_LAST,
        )

    def process_state(self) -> dict[str, Any]:
        """Return what this process has for itself."""
        own = process_state(self.plain_model, is_main=comm.is_main_process())
        return {**own, "tally": self.skipped_images.state_dict()}

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
                self.skipped_images.load_state_dict(state["tally"])
        else:
            own = states[comm.get_rank()]
            restore_process(self.plain_model, own)
            self.skipped_images.load_state_dict(own["tally"])

    def train(self) -> Any:
        """Train; SIGTERM, SIGUSR1 and SIGINT save and end the run at the end of a step.

        Raises:
            Interrupted: after a signal.
            LastSaveFailedError: when what was trained cannot be saved.
        """
        with signals_recorded(self.stop_request):
            return super().train()

    def before_train(self) -> None:
        """Cut curves off where the run goes on."""
        if self.start_iter > 0 and comm.is_main_process():
            cut_curves(self.cfg.OUTPUT_DIR, self.start_iter, self._hooks)
        super().before_train()

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

    ``metrics.json`` is cut off, also where a line is not whole; TensorBoard forgets them too.
    """
    path = Path(folder) / "metrics.json"
    if path.is_file():
        # The writer has the file open already: it stays the same file.
        with open(path, "r+b") as file:
            file.truncate(sum(map(len, _lines_before(start, file))))
    for hook in hooks:
        if isinstance(hook, PeriodicWriter):
            for writer in hook._writers:
                wrapped = getattr(writer, "writer", writer)
                if isinstance(wrapped, TensorboardXWriter):
                    wrapped._writer_args["purge_step"] = start


def _lines_before(start: int, lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines up to the first that is cut off or is about ``start`` or a later iteration."""
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or values.get("iteration", start) >= start:
            return
        yield line
