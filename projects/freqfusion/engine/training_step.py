"""One iteration: gradients of a batch, in parts where it is large, looked at before use."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion.engine.accumulation import in_parts
from freqfusion.engine.data_parallel import unwrapped
from freqfusion.engine.health.guard import FINE, GRADIENTS, LOSSES, Guard
from freqfusion.engine.health.norms import (
    gradient_norm,
    gradient_norms_by_part,
    gradients_finite,
)

_NORMS_PERIOD = 20  # that of the writers


class _ModelRaised(Exception):
    """The model of some process has found numbers that are not finite, and given no losses."""


class TrainingSteps(SimpleTrainer):
    """``SimpleTrainer`` in full precision, with what long runs need.

    Args:
        model: In training mode.
        data_loader: Batches.
        optimizer: Of the model's parameters.
        parts: How many parts a batch is split into; their gradients are added up. The losses are
            means of those of the parts, which weigh as many images as they have.
        guard: What happens to numbers that are not finite; None leaves that to Detectron2, which
            stops.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        parts: int = 1,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self._parts, self.guard = parts, guard
        # Switched off, it only hands through.
        self.grad_scaler = torch.amp.GradScaler("cpu", enabled=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """Precision of the forward pass."""
        return nullcontext()

    def run_step(self) -> None:
        """One batch: losses, gradients, one step of the optimizer if all of them are finite."""
        if not self.model.training:
            raise RuntimeError("the model was put into eval mode; a hook must put it back")
        started = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - started
        parts = in_parts(data, self._parts)
        if self.guard:
            self.guard.begin()
        self.optimizer.zero_grad()
        try:
            losses = self._gradients(parts)
        except _ModelRaised:
            self._fail(parts)
            return
        # Gradients are brought back to their scale before anything looks at them.
        self.grad_scaler.unscale_(self.optimizer)
        self.after_backward()
        norm = gradient_norm(self.model)
        if self.guard and not self._looked_after(self.guard, losses, norm, parts):
            return
        self._write_metrics(losses, data_time)
        self._write_norms(norm)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _gradients(self, parts: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Add up the gradients of the parts; the losses of the batch."""
        means: dict[str, torch.Tensor] = {}
        images = sum(len(part) for part in parts)
        for number, part in enumerate(parts, start=1):
            share = len(part) / images
            with self._alone() if number < len(parts) else nullcontext():
                with self.autocast():
                    losses = self._losses(part)
                    if isinstance(losses, torch.Tensor):
                        losses = {"total_loss": losses}
                    total = share * sum(losses.values())
                self.grad_scaler.scale(total).backward()
            for name, loss in losses.items():
                weighed = share * loss.detach()
                means[name] = means[name] + weighed if name in means else weighed
        return means

    def _losses(self, part: Any) -> Any:
        """Those of a part.

        Detectron2's proposals raise where they are not finite, in the middle of the model: then all
        processes leave the step, none of which would otherwise know that another goes no further.
        """
        raised = False
        try:
            losses = self.model(part)
        except FloatingPointError:
            if not self.guard:
                raise
            raised = True
        if self.guard and self.guard.agree(LOSSES if raised else FINE) != FINE:
            raise _ModelRaised
        return losses

    def _alone(self) -> AbstractContextManager[Any]:
        """Gradients stay in this process until those of the last part are there."""
        parallel = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if parallel else nullcontext()

    def _looked_after(
        self,
        guard: Guard,
        losses: Mapping[str, torch.Tensor],
        norm: torch.Tensor,
        parts: Sequence[Any],
    ) -> bool:
        """Whether the step may go on; where it may not it has been seen to."""
        state = FINE
        if not all(bool(loss.isfinite().all()) for loss in losses.values()):
            state = LOSSES
        elif not norm.isfinite() and not gradients_finite(self.model):
            state = GRADIENTS
        state = guard.agree(state)
        if state == FINE:
            guard.passed()
            return True
        scale = self.grad_scaler.get_scale()
        if state == GRADIENTS and self.grad_scaler.is_enabled() and scale > 1:
            return True  # too large a scale: the scaler leaves this step out and lowers it
        if self.grad_scaler.is_enabled():
            self.grad_scaler.update(scale)
        self._fail(parts)
        return False

    def _fail(self, parts: Sequence[Any]) -> None:
        """Have the guard see to the step, in all processes."""
        if self.guard:
            self.guard.failed(self.iter, parts, self.autocast)

    def _write_norms(self, norm: torch.Tensor) -> None:
        storage = get_event_storage()
        if norm.isfinite():
            storage.put_scalar("gradient_norm", float(norm))
        if (self.iter + 1) % _NORMS_PERIOD == 0:
            for name, value in gradient_norms_by_part(unwrapped(self.model)).items():
                storage.put_scalar(f"gradient_norm/{name}", value, smoothing_hint=False)

    def state_dict(self) -> dict[str, Any]:
        """With the steps that were skipped."""
        state: dict[str, Any] = super().state_dict()
        return {**state, "guard": self.guard.state_dict()} if self.guard else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """From a checkpoint of this or of Detectron2's trainer."""
        super().load_state_dict(state_dict)
        if self.guard and "guard" in state_dict:
            self.guard.load_state_dict(state_dict["guard"])
