"""Training steps under autocast, on a GPU or a CPU.

Detectron2's own knows float16 on a GPU only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from freqfusion.config_check.run_rules import AMP_DTYPES
from freqfusion.engine.health import Guard
from freqfusion.engine.training_step import TrainingSteps

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in AMP_DTYPES}


class MixedPrecisionTrainer(TrainingSteps):
    """``TrainingSteps`` whose model and losses run in half precision where that is safe.

    With float16 the losses are scaled, so that small gradients do not vanish; bfloat16 has the
    range of float32 and needs no scaling.

    Args:
        model: In training mode.
        data_loader: Batches.
        optimizer: Its parameters and states stay in float32.
        device: Type of the device, "cuda" or "cpu".
        precision: A name of ``DTYPES``.
        parts: As in ``TrainingSteps``.
        guard: As there.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        device: str,
        precision: str,
        parts: int = 1,
        guard: Guard | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer, parts=parts, guard=guard)
        if precision not in DTYPES:
            raise ValueError(
                f"SOLVER.AMP.DTYPE must be one of {', '.join(DTYPES)}; got {precision!r}"
            )
        self.device, self.dtype = device, DTYPES[precision]
        self.grad_scaler = torch.amp.GradScaler(device, enabled=precision == "float16")

    def autocast(self) -> torch.autocast:
        """Half precision where that is safe."""
        return torch.autocast(self.device, self.dtype)

    def state_dict(self) -> dict[str, Any]:
        """With the scale of the losses."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """From a checkpoint of this or of Detectron2's trainer; one without a scale keeps ours."""
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
