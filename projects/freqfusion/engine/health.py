"""Training steps whose losses or gradients are not finite: stop the run, or skip them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from freqfusion.messages import shorten

logger = logging.getLogger(__name__)

POLICIES = ("stop", "skip")
FINITE, BAD_GRADIENTS, BAD_LOSSES = 0, 1, 2
_NAMED = 8


class NonFiniteGuard:
    """Leaves steps that are not finite out in all processes, or ends the run.

    Args:
        model: Not wrapped for several processes.
        policy: "stop" ends the run with a FloatingPointError; "skip" leaves the weights and the
            buffers as they are, up to ``patience`` times in a row.
        patience: See above.
    """

    def __init__(self, model: nn.Module, *, policy: str, patience: int = 1) -> None:
        if policy not in POLICIES:
            raise ValueError(f"SOLVER.NON_FINITE must be one of {POLICIES}; got {policy!r}")
        self._model, self._policy, self._patience = model, policy, patience
        self.num_skipped, self.in_a_row = 0, 0
        self._buffers: list[torch.Tensor] = []

    def begin(self) -> None:
        """Copy the buffers, which a forward pass changes."""
        self._buffers = [buffer.detach().clone() for buffer in self._model.buffers()]

    def agree(self, state: int) -> int:
        """Return the worst state of all processes."""
        if comm.get_world_size() == 1:
            return state
        worst = torch.tensor(state, device=next(self._model.parameters()).device)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        return int(worst)

    def passed(self) -> None:
        """Count a step that is finite."""
        self.in_a_row = 0

    def failed(self, iteration: int, state: int, problem: str, parts: Sequence[Any]) -> None:
        """Restore the buffers and log what is not finite; to be called in all processes.

        Args:
            iteration: Number of the step, from 0.
            state: What this process found.
            problem: The losses or the gradient that it found, "" where all is finite here.
            parts: The batch of this process.

        Raises:
            FloatingPointError: where the run is to be stopped.
        """
        with torch.no_grad():
            for buffer, value in zip(self._model.buffers(), self._buffers, strict=True):
                buffer.copy_(value)
        found: list[tuple[int, str]] = comm.all_gather((state, f"{problem}; {_images(parts)}"))
        rank = max(range(len(found)), key=lambda one: (found[one][0], -one))
        where = f", rank {rank}" if len(found) > 1 else ""
        message = f"iteration {iteration}{where}: numbers are not finite: {found[rank][1]}"
        self.num_skipped, self.in_a_row = self.num_skipped + 1, self.in_a_row + 1
        if self._policy == "stop":
            raise FloatingPointError(
                f"{message}; SOLVER.NON_FINITE skip would go on without the step"
            )
        if self.in_a_row > self._patience:
            raise FloatingPointError(
                f"{message}; {self._patience} steps in a row were skipped before it"
                " (SOLVER.NON_FINITE_PATIENCE)"
            )
        logger.warning("%s; the step is skipped", message)
        get_event_storage().put_scalar("skipped_steps", self.num_skipped, smoothing_hint=False)

    def state_dict(self) -> dict[str, int]:
        """Return the numbers of steps that were skipped."""
        return {"skipped": self.num_skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting from a checkpoint."""
        self.num_skipped, self.in_a_row = state["skipped"], state["in_a_row"]


def describe_losses(losses: Mapping[str, torch.Tensor]) -> str:
    """Name the losses that are not finite, with their values; "" where all are."""
    wrong = {name: loss for name, loss in losses.items() if not bool(loss.isfinite().all())}
    values = ", ".join(f"{name} is {float(loss)}" for name, loss in wrong.items())
    return f"the loss {values}" if wrong else ""


def describe_gradients(model: nn.Module) -> str:
    """Name the first parameter whose gradient is not finite; "" where all are."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the first such gradient is that of {name}"
    return ""


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """Return the Euclidean norm of all gradients together; 0 where there are none."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def _images(parts: Sequence[Any]) -> str:
    names = [
        str(image["file_name"])
        for part in parts
        for image in (part if isinstance(part, Sequence) else ())
        if isinstance(image, dict) and "file_name" in image
    ]
    return f"images: {shorten(names, _NAMED) or 'unknown'}"
