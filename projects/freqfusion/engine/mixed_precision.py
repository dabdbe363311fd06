"""Training steps under autocast, on a GPU or a CPU.

Detectron2's own knows float16 on a GPU only.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from torch import nn

from freqfusion.config_check.run_rules import AMP_DTYPES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in AMP_DTYPES}


class MixedPrecisionTrainer(SimpleTrainer):
    """``SimpleTrainer`` whose model and losses run in half precision where that is safe.

    With float16 the losses are scaled, so that small gradients do not vanish; bfloat16 has the
    range of float32 and needs no scaling.

    Args:
        model: In training mode.
        data_loader: Batches.
        optimizer: Its parameters and states stay in float32.
        device: Type of the device, "cuda" or "cpu".
        precision: A name of ``DTYPES``.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        device: str,
        precision: str,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        if precision not in DTYPES:
            raise ValueError(
                f"SOLVER.AMP.DTYPE must be one of {', '.join(DTYPES)}; got {precision!r}"
            )
        self.device, self.dtype = device, DTYPES[precision]
        self.grad_scaler = torch.amp.GradScaler(device, enabled=precision == "float16")

    def run_step(self) -> None:
        """One batch: losses under autocast, gradients, one step of the optimizer."""
        if not self.model.training:
            raise RuntimeError("the model was put into eval mode; a hook must put it back")
        started = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - started
        with torch.autocast(self.device, self.dtype):
            losses = self.model(data)
            losses = {"total_loss": losses} if isinstance(losses, torch.Tensor) else losses
            total = sum(losses.values())
        self.optimizer.zero_grad()
        self.grad_scaler.scale(total).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        # Gradients are brought back to their scale before the optimizer clips and uses them.
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """With the scale of the losses."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """From a checkpoint of this or of Detectron2's trainer; one without a scale keeps ours."""
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
