"""Weights, gradients and states of the optimizer shared out over the processes (FSDP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from freqfusion.data.randomness import separate_randomness


def shares_weights(cfg: CfgNode) -> bool:
    """Whether this run does; one process has nothing to share."""
    return bool(cfg.SOLVER.FSDP.ENABLED) and comm.get_world_size() > 1


def share_weights(model: nn.Module) -> None:
    """Share out the model in place: block by block in its backbone, the rest as one.

    All processes begin with the weights and buffers of rank 0. Each keeps a part of each parameter,
    and a block is put together for the time in which it runs. ``state_dict`` has whole tensors on
    the CPU, and ``load_state_dict`` takes such: the first has to be called in all processes
    together, as the model itself.

    Build the optimizer behind it, and hand it to ``share_states``.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, 0)
    kind = next(model.parameters()).device.type
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.register_state_dict_post_hook(_put_together)
    model.register_load_state_dict_pre_hook(_share_out)


def share_states(optimizer: torch.optim.Optimizer) -> None:
    """Have checkpoints of an optimizer of shared weights hold whole tensors too."""
    optimizer.register_state_dict_post_hook(lambda _, state: whole(state))
    optimizer.register_load_state_dict_pre_hook(_share_out_states)


def blocks(model: nn.Module) -> list[nn.Module]:
    """What the bottom-up network repeats: outermost members of its sequences that have parts.

    Empty for a model without a backbone.
    """
    backbone = getattr(model, "backbone", None)
    found: list[nn.Module] = []
    if isinstance(backbone, nn.Module):
        _collect(getattr(backbone, "bottom_up", backbone), found)
    return found


def _collect(module: nn.Module, found: list[nn.Module]) -> None:
    sequence = isinstance(module, nn.Sequential | nn.ModuleList)
    for child in module.children():
        nested = isinstance(child, nn.Sequential | nn.ModuleList)
        if sequence and not nested and any(True for _ in child.children()):
            found.append(child)
        else:
            _collect(child, found)


def whole(value: Any) -> Any:
    """Nested values with whole tensors on the CPU in place of shared ones; in all processes."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach().cpu()
    if isinstance(value, Mapping):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item) for item in value)
    return value


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process has."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class WholeModel:
    """A model of which every process has all weights, for evaluations in their own pace.

    Processes evaluate different numbers of images, so they cannot put weights together as they go.
    It lies on the CPU while it is not used.

    Args:
        cfg: Of the model.
        model: Shared out, in training.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self._shared, self._device = model, cfg.MODEL.DEVICE
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.TIMM.PRETRAINED = False
        with separate_randomness(0):
            self.model: nn.Module = build_model(cfg).cpu()

    def fetch(self) -> nn.Module:
        """Give it the weights of now; in all processes."""
        self.model.load_state_dict(self._shared.state_dict())
        return self.model.train(self._shared.training).to(self._device)

    def release(self) -> None:
        """Give the memory of the device back."""
        self.model.cpu()


def _put_together(model: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, value in state.items():
        state[name] = whole(value)


def _share_out(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, parameter in model.named_parameters():
        value = state.get(prefix + name)
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            state[prefix + name] = _like(parameter, value)


def _share_out_states(
    optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> dict[str, Any] | None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    states = dict(state["state"])
    for number, parameter in zip(numbers, parameters, strict=False):
        if number in states:
            states[number] = {
                name: _like(parameter, value)
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape
                else value
                for name, value in states[number].items()
            }
    return {**state, "state": states}


def _like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A whole tensor shared out as a parameter is; all processes have the same one."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(
        value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def is_shared(model: nn.Module) -> bool:
    """Whether the model went through ``share_weights``."""
    return isinstance(model, FSDPModule)
