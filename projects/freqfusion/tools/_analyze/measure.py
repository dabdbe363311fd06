"""Everything that is measured of a model, as plain data."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

import torch
from torch import nn

from freqfusion.analysis import (
    Latency,
    SavedMemory,
    count_flops,
    count_parameters,
    measure_latency,
    peak_memory,
    saved_for_backward,
)
from freqfusion.tools._analyze.inputs import random_image, with_targets
from freqfusion.tools._model import padded_sizes

_FLOPS = (
    "a multiply-add counts once; matrix products, convolutions, attention, reassembly, local"
    " similarity and interpolation are counted"
)
_DETECTOR = (
    "a detector: the work of its heads depends on the proposals, here those that the given or"
    " random weights make of noise"
)


def analyze(cfg: Any, model: nn.Module, size: tuple[int, int], runs: int) -> dict[str, Any]:
    """Measure a model on one image of noise of ``size`` (height, width).

    It is left in training mode, after a forward pass in it. Without ``runs`` no time is taken.

    Returns:
        Plain data for JSON: ``model``, the sums; ``modules``, a dict for each part in the order of
        ``named_modules``, the model first; ``operators``; ``notes`` on what the numbers mean.
    """
    notes = []
    if hasattr(model, "proposal_generator"):
        notes.append(_DETECTOR)
    image = random_image(cfg, size)
    inputs = [image]
    model.eval()
    padded = _padded_size(model, inputs)
    flops = count_flops(model, inputs)
    peak = peak_memory(model, inputs)
    latency = measure_latency(model, inputs, runs=runs) if runs else None
    saved: SavedMemory | None = None
    try:
        saved = training_memory(cfg, model, image)
    except (ValueError, RuntimeError, AssertionError, KeyError, IndexError) as error:
        # One image may be too little to train on: batch normalisation of a single pixel, say.
        notes.append(f"memory of training was not measured: {str(error) or type(error).__name__}")
    parameters = count_parameters(model)
    parts = [
        {
            "name": name,
            "class": type(part).__name__,
            **dataclasses.asdict(parameters[name]),
            "flops": flops.by_module[name],
            "saved_bytes": None if saved is None else saved.by_module[name],
            "milliseconds": _times(latency, name),
        }
        for name, part in model.named_modules()
    ]
    summary = {
        **{key: value for key, value in parts[0].items() if key != "name"},
        "milliseconds": None if latency is None else dataclasses.asdict(latency.total),
        "peak_inference_bytes": peak,
    }
    operators = {key: value for key, value in vars(flops).items() if not key.startswith("by_m")}
    return {
        **_setting(model, size, padded, runs),
        "flops_convention": _FLOPS,
        "notes": notes,
        "model": summary,
        "operators": operators,
        "modules": parts,
    }


def training_memory(cfg: Any, model: nn.Module, image: dict[str, Any]) -> SavedMemory:
    """What a training step on one image keeps; the model stays in training mode."""
    from detectron2.utils.events import EventStorage

    with EventStorage():
        return saved_for_backward(model.train(), [with_targets(image, cfg)])


def _times(latency: Latency | None, name: str) -> dict[str, float] | None:
    return None if latency is None else dataclasses.asdict(latency.by_module[name])


def _padded_size(model: nn.Module, inputs: Any) -> tuple[int, int] | None:
    """Height and width of what the backbone gets, by looking; None where there is no backbone."""
    with padded_sizes(model) as seen, torch.no_grad():
        model(inputs)
    return seen[0] if seen else None


def _setting(
    model: nn.Module, size: tuple[int, int], padded: tuple[int, int] | None, runs: int
) -> dict[str, Any]:
    parameter = next(model.parameters())
    device = parameter.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "size": list(size),
        "padded_size": None if padded is None else list(padded),
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "runs": runs,
    }
