"""One iteration: the gradients of a batch in full or mixed precision, checked before their use."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer, create_ddp_model
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion.engine.health import (
    BAD_GRADIENTS,
    BAD_LOSSES,
    FINITE,
    NonFiniteGuard,
    describe_gradients,
    describe_losses,
    gradient_norm,
)

AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class _NonFiniteForward(Exception):
    """Raised in all processes where a model refuses numbers, and has given no losses."""


class TrainingSteps(SimpleTrainer):
    """``SimpleTrainer`` with autocast on any device, gradient accumulation and a check of numbers.

    Args:
        model: In training mode.
        data_loader: Batches.
        optimizer: Its parameters and states stay in float32.
        precision: "float32", or the type of autocast: "float16", whose losses are scaled so that
            small gradients do not vanish, or "bfloat16", which has the range of float32.
        device: Type of the device, "cuda" or "cpu".
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
        precision: str = "float32",
        device: str = "cpu",
        parts: int = 1,
        guard: NonFiniteGuard | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        if precision not in ("float32", *AMP_DTYPES):
            raise ValueError(
                f"SOLVER.AMP.DTYPE must be one of {', '.join(AMP_DTYPES)}; got {precision!r}"
            )
        self._parts, self.guard = parts, guard
        self.device, self.dtype = device, AMP_DTYPES.get(precision)
        # Switched off, it only hands through.
        self.grad_scaler = torch.amp.GradScaler(device, enabled=precision == "float16")

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    def run_step(self) -> None:
        """Compute losses and gradients of a batch, and step the optimizer if all are finite."""
        if not self.model.training:
            raise RuntimeError("the model was put into eval mode; a hook must put it back")
        started = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - started
        parts = split_batch(data, self._parts)
        if self.guard:
            self.guard.begin()
        self.optimizer.zero_grad()
        try:
            losses = self._gradients(parts)
        except _NonFiniteForward as raised:
            problem = str(raised)
            self._fail(BAD_LOSSES if problem else FINITE, problem, parts)
            return
        # Gradients are brought back to their scale before anything looks at them.
        self.grad_scaler.unscale_(self.optimizer)
        self.after_backward()
        norm = gradient_norm(self.model)
        if self.guard and not self._is_finite(self.guard, losses, norm, parts):
            return
        self._write_metrics(losses, data_time)
        if norm.isfinite():
            get_event_storage().put_scalar("gradient_norm", float(norm))
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _gradients(self, parts: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Add up the gradients of the parts, and return the losses of the batch."""
        means: dict[str, torch.Tensor] = {}
        images = sum(len(part) for part in parts)
        for number, part in enumerate(parts, start=1):
            share = len(part) / images
            with self._without_reduction() if number < len(parts) else nullcontext():
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
        """Return the losses of a part.

        Detectron2's proposals raise where they are not finite, in the middle of the model: then all
        processes leave the step, none of which would otherwise know that another goes no further.
        """
        losses, problem = None, ""
        try:
            losses = self.model(part)
        except FloatingPointError as error:
            if not self.guard:
                raise
            problem = f"the model says: {error}"
        if self.guard and self.guard.agree(BAD_LOSSES if problem else FINITE) != FINITE:
            raise _NonFiniteForward(problem)
        return losses

    def _without_reduction(self) -> AbstractContextManager[Any]:
        """Keep gradients in this process until those of the last part are there."""
        parallel = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if parallel else nullcontext()

    def _is_finite(
        self,
        guard: NonFiniteGuard,
        losses: Mapping[str, torch.Tensor],
        norm: torch.Tensor,
        parts: Sequence[Any],
    ) -> bool:
        """Return whether the step may go on; where it may not, the guard has dealt with it."""
        state, problem = BAD_LOSSES, describe_losses(losses)
        # A norm may overflow where no gradient does.
        if not problem and not norm.isfinite():
            state, problem = BAD_GRADIENTS, describe_gradients(unwrapped(self.model))
        own = state if problem else FINITE
        state = guard.agree(own)
        if state == FINITE:
            guard.passed()
            return True
        scale = self.grad_scaler.get_scale()
        if state == BAD_GRADIENTS and self.grad_scaler.is_enabled() and scale > 1:
            return True  # too large a scale: the scaler leaves this step out and lowers it
        if self.grad_scaler.is_enabled():
            self.grad_scaler.update(scale)
        self._fail(own, problem, parts)
        return False

    def _fail(self, state: int, problem: str, parts: Sequence[Any]) -> None:
        if self.guard:
            self.guard.failed(self.iter, state, problem, parts)

    def state_dict(self) -> dict[str, Any]:
        """Return the state with the scale of the losses and the number of skipped steps."""
        state: dict[str, Any] = super().state_dict()
        if self.dtype is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return {**state, "guard": self.guard.state_dict()} if self.guard else state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of this or of Detectron2's trainer; one without a scale keeps ours."""
        super().load_state_dict(state_dict)
        if self.dtype is not None and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if self.guard and "guard" in state_dict:
            self.guard.load_state_dict(state_dict["guard"])


def split_batch(batch: Any, count: int) -> list[Any]:
    """Split a batch into runs of images whose numbers differ by one at most.

    There are fewer parts than ``count`` where there are fewer images. With one part a batch may be
    anything that has a length.
    """
    if count == 1 or not isinstance(batch, Sequence):
        return [batch]
    count = min(count, len(batch))
    ends = [len(batch) * number // count for number in range(count + 1)]
    return [batch[start:end] for start, end in itertools.pairwise(ends)]


def data_parallel(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wrap the model as Detectron2 does where there are several processes, also on CPUs.

    Buffers stay those of each process; all of them start with those of rank 0.
    """
    on_gpu = next(model.parameters()).device.type == "cuda"
    wrapped: nn.Module = create_ddp_model(
        model,
        broadcast_buffers=False,
        find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
        **({} if on_gpu else {"device_ids": None}),
    )
    return wrapped


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model itself, without a wrapper for several processes."""
    return model.module if isinstance(model, DistributedDataParallel) else model
