"""What each process of a run has for itself: random numbers, and averages that are not shared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from freqfusion.data.randomness import capture, restore

# Averages over iterations that Detectron2's dense detectors keep outside of their state.
_AVERAGES = ("loss_normalizer",)


def process_state(model: nn.Module, *, is_main: bool) -> dict[str, Any]:
    """Of plain numbers and tensors, so that it can be read without running code.

    Args:
        model: Without a wrapper for several processes.
        is_main: The model's buffers are saved with its weights, in the main process.
    """
    return {
        "randomness": capture(),
        "buffers": {} if is_main else {name: b.cpu() for name, b in _buffers(model).items()},
        "averages": _averages(model),
    }


def restore_process(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Have this process go on from a state."""
    restore(state["randomness"])
    buffers = _buffers(model)
    for name, value in state["buffers"].items():
        if name in buffers and buffers[name].shape == value.shape:
            buffers[name].copy_(value)
    modules = dict(model.named_modules())
    for place, values in state["averages"].items():
        modules[place].__dict__.update(values)


def _buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Those that are saved with the weights, such as running statistics.

    Not by way of ``state_dict``, for which processes that share weights would have to meet.
    """
    return {
        f"{place}.{name}".lstrip("."): buffer
        for place, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def _averages(model: nn.Module) -> dict[str, dict[str, Any]]:
    found = {
        place: {name: vars(module)[name] for name in _AVERAGES if name in vars(module)}
        for place, module in model.named_modules()
    }
    return {place: values for place, values in found.items() if values}
