"""What happens when losses or gradients of a step are not finite; the same in every process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from freqfusion.config_check.run_rules import NON_FINITE
from freqfusion.data.randomness import capture
from freqfusion.engine.health.dump import Dump
from freqfusion.engine.health.examination import Finding, examine, restore_buffers

logger = logging.getLogger(__name__)

POLICIES = NON_FINITE
FINE, GRADIENTS, LOSSES = 0, 1, 2
_DUMPS = 5  # a run that skips for days must not fill the disk


class Guard:
    """Looks after the steps of a trainer.

    Args:
        model: Not wrapped for several processes.
        policy: "stop" ends the run with a FloatingPointError; "skip" leaves the weights as they
            are, up to ``patience`` times in a row.
        patience: See above.
        folder: Output folder of the run; a step that goes wrong is written to
            ``non_finite/iter_<number>.pth`` there, five times at most.
        config: The configuration as YAML, for the dump.
        precision: "float32", or that of autocast.
        whole: Where weights are shared out: a model that has all of them, as they are now. Called
            in all processes.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        policy: str,
        patience: int = 1,
        folder: str = "",
        config: str = "",
        precision: str = "float32",
        whole: Callable[[], nn.Module] | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"SOLVER.NON_FINITE must be one of {POLICIES}; got {policy!r}")
        self._model, self._policy, self._patience = model, policy, patience
        self._folder, self._config, self._precision = folder, config, precision
        self._whole = whole or (lambda: model)
        self.skipped, self.in_a_row = 0, 0
        self._buffers: list[torch.Tensor] = []
        self._randomness: dict[str, Any] = {}

    def begin(self) -> None:
        """Remember what a step changes on its way, or draws from."""
        self._buffers = [buffer.detach().clone() for buffer in self._model.buffers()]
        self._randomness = capture()

    def agree(self, state: int) -> int:
        """The worst of the states of all processes: ``FINE``, ``GRADIENTS`` or ``LOSSES``."""
        if comm.get_world_size() == 1:
            return state
        device = next(self._model.parameters()).device
        worst = torch.tensor(state, device=device)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        return int(worst)

    def passed(self) -> None:
        """The step was fine."""
        self.in_a_row = 0

    def failed(
        self,
        iteration: int,
        parts: Sequence[Sequence[Any]],
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """Say where the step went wrong, write it down; return where it is to be skipped.

        To be called in all processes.

        Raises:
            FloatingPointError: where the run is to be stopped.
        """
        restore_buffers(self._model, self._buffers)
        model = self._whole()
        finding = examine(model, parts, self._randomness, autocast)
        findings = comm.all_gather((finding, finding.sentence()))
        rank = next((at for at, one in enumerate(findings) if one[0]), 0)
        path = ""
        if comm.get_rank() == rank:
            path = self._dump(model, iteration, parts, finding)
        path = comm.all_gather(path)[rank]
        said = self._say(iteration, rank, findings[rank], path)
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self._policy == "stop":
            raise FloatingPointError(f"{said}; SOLVER.NON_FINITE skip would go on without the step")
        if self.in_a_row > self._patience:
            raise FloatingPointError(
                f"{said}; {self._patience} steps in a row were skipped before it"
                " (SOLVER.NON_FINITE_PATIENCE)"
            )
        logger.warning("%s; the step is skipped", said)
        get_event_storage().put_scalar("skipped_steps", self.skipped, smoothing_hint=False)

    def _say(self, iteration: int, rank: int, found: tuple[Finding, str], path: str) -> str:
        where = f", rank {rank}" if comm.get_world_size() > 1 else ""
        kept = f"; to look closer: python -m freqfusion.tools.replay {path}" if path else ""
        return f"iteration {iteration}{where}: numbers are not finite: {found[1]}{kept}"

    def _dump(
        self,
        model: nn.Module,
        iteration: int,
        parts: Sequence[Sequence[Any]],
        finding: Finding,
    ) -> str:
        folder = Path(self._folder) / "non_finite"
        if not self._folder or len(list(folder.glob("iter_*.pth"))) >= _DUMPS:
            return ""
        path = folder / f"iter_{iteration}.pth"
        dump = Dump(
            iteration,
            comm.get_rank(),
            self._config,
            model.state_dict(),
            parts,
            self._randomness,
            self._precision,
            finding.sentence(),
        )
        try:
            dump.write(path)
        except (OSError, RuntimeError, ValueError) as error:
            logger.warning("the step of iteration %d cannot be written: %s", iteration, error)
            return ""
        return str(path)

    def state_dict(self) -> dict[str, int]:
        """How many steps were skipped."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
