"""The maps of chosen layers for one image, and which part of them the image covers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freqfusion.tools._feature_similarity.layers import Layer, pick
from freqfusion.tools._model import padded_sizes


@dataclass(frozen=True)
class RecordedMap:
    """Features (C, h, w), and the part of their height and width that is image, not padding."""

    features: Tensor
    covered: tuple[float, float]


class _EnoughError(Exception):
    """Every map is there, so the rest of the model need not run."""


@torch.no_grad()
def record_maps(
    model: nn.Module, inputs: Mapping[str, Any], layers: Sequence[Layer]
) -> dict[str, RecordedMap]:
    """Run a model on one image as far as needed; by label the map of each layer.

    A module that runs several times gives the map of its first run.

    Raises:
        ValueError: if a layer does not run, or gives no map of one image.
    """
    found: dict[str, Tensor] = {}
    image = (int(inputs["image"].shape[-2]), int(inputs["image"].shape[-1]))
    with padded_sizes(model) as padded, _hooks(model, layers, found), suppress(_EnoughError):
        model([inputs])
    whole = padded[-1] if padded else image
    absent = [str(layer) for layer in layers if layer.label not in found]
    if absent:
        raise ValueError(f"the model does not run {', '.join(absent)} on an image")
    maps = {}
    for layer in layers:
        features = found[layer.label]
        if features.ndim == 4 and len(features) == 1:
            features = features[0]
        if features.ndim != 3:
            raise ValueError(
                f"{layer} has the shape {tuple(features.shape)}; a map of one image is 1 x channels"
                " x height x width. Choose another layer or part"
            )
        maps[layer.label] = RecordedMap(features.float(), covered_part(features, image, whole))
    return maps


@contextmanager
def _hooks(
    model: nn.Module,
    layers: Sequence[Layer],
    found: dict[str, Tensor],
) -> Iterator[None]:
    with ExitStack() as stack:
        for layer in layers:
            hook = _hook(layer, found, len(layers))
            module = model.get_submodule(layer.name)
            # Inputs are read before the module can change them in place.
            handle = (
                module.register_forward_pre_hook(hook, with_kwargs=True)
                if layer.side == "input"
                else module.register_forward_hook(hook, with_kwargs=True)
            )
            stack.callback(handle.remove)
        yield


def _hook(layer: Layer, found: dict[str, Tensor], wanted: int) -> Callable[..., None]:
    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if layer.label in found:
            return
        value = _inputs(module, args, kwargs) if layer.side == "input" else output
        # A later module may work in place.
        found[layer.label] = pick(layer, value).detach().clone()
        if len(found) == wanted:
            raise _EnoughError

    return keep


def _inputs(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a module was called with, by the names of its arguments."""
    try:
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except TypeError:
        return {**{str(place): value for place, value in enumerate(args)}, **kwargs}


def covered_part(
    features: Tensor, image: tuple[int, int], padded: tuple[int, int]
) -> tuple[float, float]:
    """Part of a map that shows the image, given that the map shows all of the padded one."""
    cells = (features.shape[-2], features.shape[-1])
    parts = [
        min(1.0, size / (count * stride))
        for size, count, stride in zip(image, cells, _strides(padded, cells), strict=True)
    ]
    return parts[0], parts[1]


def _strides(size: tuple[int, int], cells: tuple[int, int]) -> tuple[float, float]:
    """Pixels for each cell: a power of two where both counts are due to it.

    The last cell then reaches over the border, which the plain ratio would not tell.
    """
    for power in (2**exponent for exponent in range(max(size).bit_length() + 1)):
        if all(math.ceil(one / power) == count for one, count in zip(size, cells, strict=True)):
            return power, power
    return size[0] / cells[0], size[1] / cells[1]
