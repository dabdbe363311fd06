"""Keep and evaluate an exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel

from freqfusion.engine.checkpoint import save_file
from freqfusion.engine.hooks import finished_iterations


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
