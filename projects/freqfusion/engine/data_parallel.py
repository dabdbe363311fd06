"""A model whose gradients are averaged over processes."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from freqfusion.engine.sharding import is_shared

_NAMED = 5


def data_parallel(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Wrap the model where there are several processes, on GPUs or on CPUs.

    One whose weights are shared out averages gradients itself. Buffers stay those of each process,
    as in Detectron2; all of them start with those of rank 0.
    """
    if comm.get_world_size() == 1 or is_shared(model):
        return model
    device = next(model.parameters()).device
    wrapped: nn.Module = DistributedDataParallel(
        model,
        # On a CPU torch wants none.
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.SOLVER.FIND_UNUSED_PARAMETERS,
    )
    return wrapped


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class EveryParameterLearns(HookBase):
    """Say after the first iteration which parameters got no gradient.

    Processes that average gradients wait for all of them; torch's own message comes an iteration
    later, and names neither the parameters nor our key.
    """

    def after_step(self) -> None:
        """RuntimeError with names; nothing from the second iteration on."""
        trainer: Any = self.trainer
        if trainer.iter != trainer.start_iter:
            return
        names = [
            name
            for name, parameter in unwrapped(trainer.model).named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise RuntimeError(
                f"no gradient reached {', '.join(names[:_NAMED])}{more}, for which several"
                " processes wait in vain: set SOLVER.FIND_UNUSED_PARAMETERS True, or take these"
                " parts out of the model"
            )
