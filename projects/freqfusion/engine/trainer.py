"""Detectron2's trainer with this project's data, evaluators and hooks."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from weakref import proxy

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PreciseBN
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from freqfusion.data.bad_samples import CountedBatches, tally_of
from freqfusion.data.loaders import evaluation_loader, train_loader
from freqfusion.data.randomness import separate_randomness
from freqfusion.engine.checkpoint import RunCheckpointer, StopRequest
from freqfusion.engine.ema import WeightAverage
from freqfusion.engine.health import NonFiniteGuard
from freqfusion.engine.hooks import (
    BestCheckpoint,
    Evaluation,
    SamplePredictions,
    SkippedSummary,
    WithEvaluation,
    finished_iterations,
    repeatable,
)
from freqfusion.engine.results import TRAINING, Scores, evaluate_model, skipped_in, write_results
from freqfusion.engine.resumable import ResumableTrainer
from freqfusion.engine.solver import build_lr_scheduler, build_optimizer, with_scaled_rate
from freqfusion.engine.training_step import (
    CheckUnusedParameters,
    TrainingSteps,
    data_parallel,
    unwrapped,
)
from freqfusion.engine.validation_loss import ValidationLoss, build_validation_loader
from freqfusion.engine.writers import build_writers
from freqfusion.evaluation import build_evaluator


class Trainer(ResumableTrainer):
    """``DefaultTrainer``; evaluators are chosen from the data set's metadata.

    After each evaluation ``results.json`` is written to the output folder, and the hooks run that
    ``TEST.BEST_CHECKPOINT``, ``TEST.VALIDATION_LOSS`` and ``TEST.SAMPLE_PREDICTIONS`` ask for.

    Args:
        cfg: The configuration.
        config_file: The file that it was read from, to be named in ``results.json``.
    """

    def __init__(self, cfg: CfgNode, *, config_file: str = "") -> None:
        # Not Detectron2's: that cannot train on CPUs in several processes, nor in bfloat16.
        TrainerBase.__init__(self)
        self.config_file = config_file
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg = with_scaled_rate(cfg)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self.tally = tally_of(loader)
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
    def build_train_loader(cls, cfg: CfgNode) -> CountedBatches:
        """Batches of ``DATASETS.TRAIN``, augmented as ``INPUT`` says."""
        return train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> CountedBatches:
        """The images of a data set, one in a batch."""
        return evaluation_loader(cfg, dataset_name)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
    ) -> Scores:
        """Scores on every data set of ``DATASETS.TEST``, and what was left out of them.

        ``evaluators``, one for each, take the place of those that the metadata asks for.
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
        """What ``SOLVER.OPTIMIZER`` names."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """What ``SOLVER.LR_SCHEDULER_NAME`` names."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """The evaluator of a data set; files go to ``output_folder`` or ``inference``."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, folder)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks; behind the evaluation, and before its results are logged, ours."""
        hooks: list[HookBase | None] = super().build_hooks()
        place = next(at for at, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        ours: list[HookBase] = [
            SkippedSummary(self.tally),
            Evaluation(self.cfg.TEST.EVAL_PERIOD, self._evaluate),
            *self._evaluation_hooks(),
        ]
        hooks[place : place + 1] = [self.saving(), *self._prepared(ours)]
        hooks = [hook for hook in hooks if not isinstance(hook, PeriodicCheckpointer)]
        hooks = [repeatable(hook) if isinstance(hook, PreciseBN) else hook for hook in hooks]
        if comm.get_world_size() > 1 and not self.cfg.SOLVER.FIND_UNUSED_PARAMETERS:
            hooks.insert(0, CheckUnusedParameters())
        return hooks

    def _prepared(self, evaluation: list[HookBase]) -> list[HookBase]:
        """Return an evaluation of the average of the weights, where one is configured."""
        node, period = self.cfg.SOLVER.EMA, self.cfg.TEST.EVAL_PERIOD
        if not node.ENABLED:
            return evaluation
        average = WeightAverage(unwrapped(self.model), node.DECAY, self.cfg.OUTPUT_DIR)
        # Checkpoints are to have the average of their own iteration.
        self.register_hooks([average])
        if not node.EVALUATE:
            return evaluation
        return [
            WithEvaluation(period, average.swap),
            *evaluation,
            WithEvaluation(period, average.swap),
        ]

    def build_writers(self) -> list[EventWriter]:
        """Return the writers of the log, of ``metrics.json`` and of TensorBoard files."""
        return build_writers(self.cfg.OUTPUT_DIR, self.max_iter)

    def _evaluation_hooks(self) -> list[HookBase]:
        """The validation loss before the best checkpoint, which may be judged by it."""
        cfg, node, period = self.cfg, self.cfg.TEST, self.cfg.TEST.EVAL_PERIOD
        model = unwrapped(self.model)
        hooks: list[HookBase] = []
        if not cfg.DATASETS.TEST:
            return hooks
        if node.VALIDATION_LOSS.ENABLED:
            hooks.append(ValidationLoss(period, model, lambda: build_validation_loader(cfg)))
        if node.SAMPLE_PREDICTIONS:
            hooks.append(SamplePredictions(period, model, cfg))
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
            write_results(
                self.cfg,
                results,
                iteration=done,
                config_file=self.config_file,
                skipped={TRAINING: self.tally.gathered(), **skipped_in(results)},
            )
        return results
