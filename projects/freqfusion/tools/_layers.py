"""Name and record maps of a model: outputs of its backbone, and of any module, or its inputs.

A user names a map ``NAME[:PART | @ARGUMENT]``: a module as ``model.named_modules()`` calls it, or
an output of the backbone such as ``p2`` or ``res4``. PART is a key or an index of the module's
output (``0``, ``-1``, ``p2``), ARGUMENT one of its inputs, by name or index.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from freqfusion.drawing import Picture
from freqfusion.messages import did_you_mean
from freqfusion.predictor import padded_sizes

_SYNTAX = re.compile(r"(?P<name>[^:@=]+)(?:(?P<kind>[:@])(?P<part>[^:@=]+))?")
_FPN_OUTPUT = re.compile(r"(?P<pyramid>(?:.*\.)?)fpn_output(?P<stage>\d+)")
Covered = tuple[float, float]


@dataclass(frozen=True)
class Layer:
    """One map: ``part`` of what the module ``name`` gives, or takes; "" is all of it."""

    label: str
    name: str
    side: Literal["output", "input"] = "output"
    part: str = ""

    def __str__(self) -> str:
        """Return the name as a user would write it."""
        sign = "@" if self.side == "input" else ":"
        return self.name + (f"{sign}{self.part}" if self.part else "")


def find_layers(model: nn.Module, texts: Sequence[str]) -> list[Layer]:
    """Return the layers that a user named, each once.

    Raises:
        ValueError: if a text cannot be read, or its name is neither a module nor an output of the
            backbone.
    """
    modules = {name for name, _ in model.named_modules() if name}
    outputs = backbone_outputs(model)
    layers = []
    for text in dict.fromkeys(texts):
        found = _SYNTAX.fullmatch(text)
        if found is None:
            raise ValueError(
                f"cannot read the layer {text!r}; write NAME, NAME:PART or NAME@ARGUMENT"
            )
        name, part = found["name"], found["part"] or ""
        if name in modules:
            layers.append(Layer(text, name, "input" if found["kind"] == "@" else "output", part))
        elif name in outputs and not part:
            layers.append(Layer(text, outputs[name], part=name))
        elif name in outputs:
            raise ValueError(
                f"{text}: {name} is an output of the backbone, which has no parts and no arguments;"
                " name a module instead"
            )
        else:
            hint = did_you_mean(name, [*outputs, *modules])
            raise ValueError(
                f"the model has no module {name!r} and its backbone no such output (it has"
                f" {', '.join(outputs) or 'none'}){hint}"
            )
    return layers


def default_layers(model: nn.Module) -> list[Layer]:
    """Return what the finest hop of the pyramid, pixel decoder or head joins and gives.

    ``coarse`` is the map before the hop upsamples it, ``fused`` the map after the hop. A pyramid's
    output convolutions take both, whatever joins them, so that models can be compared. A model
    without any of these gives the outputs of its backbone.
    """
    modules = [name for name, _ in model.named_modules()]
    for find in (_of_pyramid, _of_pixel_decoder, _of_concatenation):
        layers = find(modules)
        if layers:
            return layers
    return [
        Layer(name, module, part=name) for name, module in reversed(backbone_outputs(model).items())
    ]


def _of_pyramid(modules: Sequence[str]) -> list[Layer]:
    found = [match for match in map(_FPN_OUTPUT.fullmatch, modules) if match]
    found.sort(key=lambda match: int(match["stage"]))
    if len(found) < 2:
        return []
    finest, next_one = (match[0] for match in found[:2])
    return [
        Layer("coarse", next_one, "input", "0"),
        Layer("fused", finest, "input", "0"),
        Layer(f"p{found[0]['stage']}", finest),
    ]


def _of_pixel_decoder(modules: Sequence[str]) -> list[Layer]:
    """Return Mask2Former's last hop: from the encoder, or the layer before, to layer_1."""
    for name in modules:
        if not name.endswith(".layer_1"):
            continue
        decoder = name.removesuffix(".layer_1")
        encoder = Layer("coarse", f"{decoder}.transformer", part="-1")
        if f"{decoder}.mask_features" in modules and encoder.name in modules:
            before = f"{decoder}.layer_2"
            return [
                Layer("coarse", before) if before in modules else encoder,
                Layer("fused", name, "input", "0"),
                Layer("mask features", f"{decoder}.mask_features"),
            ]
    return []


def _of_concatenation(modules: Sequence[str]) -> list[Layer]:
    hops = [name for name in modules if re.fullmatch(r"(?:.*\.)?join\.fusions\.\d+", name)]
    if not hops:
        return []
    last = hops[-1]
    return [
        Layer("coarse", last, "input", "lr_feat"),
        Layer("fused", last.partition(".fusions.")[0]),
    ]


def backbone_outputs(model: nn.Module) -> dict[str, str]:
    """Return the modules by the outputs of the backbone, and of what a pyramid stands on."""
    outputs: dict[str, str] = {}
    modules = dict(model.named_modules())
    for name in ("backbone.bottom_up", "backbone"):
        if hasattr(modules.get(name), "output_shape"):
            outputs |= dict.fromkeys(modules[name].output_shape(), name)
    return outputs


def pick(layer: Layer, value: Any) -> Tensor:
    """Return the part of a module's output, or inputs, that the layer names.

    Raises:
        ValueError: if there is no such part, or it is no tensor.
    """
    part = value
    if layer.part:
        places = list(value.values()) if isinstance(value, Mapping) else value
        is_index = re.fullmatch(r"-?\d+", layer.part) and isinstance(places, Sequence)
        if isinstance(value, Mapping) and layer.part in value:
            part = value[layer.part]
        elif is_index and -len(places) <= int(layer.part) < len(places):
            part = places[int(layer.part)]
        else:
            raise ValueError(
                f"{layer}: there is no part {layer.part!r}; {layer.side} is {_described(value)}"
            )
    if not isinstance(part, Tensor):
        raise ValueError(
            f"{layer} is {_described(part)}, not a tensor; choose a part of it with NAME:PART"
        )
    return part


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


@dataclass(frozen=True)
class RecordedMap:
    """Features (C, h, w), and the part of their height and width that is image, not padding."""

    features: Tensor
    covered: Covered


def record_maps(predictor: Any, image: Picture, layers: Sequence[Layer]) -> dict[str, RecordedMap]:
    """Run a ``Predictor`` on an image; return the map of each layer by its label.

    A module that runs several times gives the map of its first run.

    Raises:
        ValueError: if a layer does not run, or gives no map of one image.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            module = predictor.model.get_submodule(layer.name)
            # Inputs are read before the module can change them in place.
            register: Any = (
                module.register_forward_pre_hook
                if layer.side == "input"
                else module.register_forward_hook
            )
            stack.callback(register(_hook(layer, found), with_kwargs=True).remove)
        covered_part = stack.enter_context(covered_parts(predictor.model))
        predictor(image)
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
        maps[layer.label] = RecordedMap(features.float(), covered_part(features))
    return maps


def _hook(layer: Layer, found: dict[str, Tensor]) -> Callable[..., None]:
    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if layer.label not in found:
            value = _inputs(module, args, kwargs) if layer.side == "input" else output
            # A later module may work in place.
            found[layer.label] = pick(layer, value).detach().clone()

    return keep


def _inputs(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a module was called with, by the names of its arguments."""
    try:
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except TypeError:
        return {**{str(place): value for place, value in enumerate(args)}, **kwargs}


@contextmanager
def covered_parts(model: nn.Module) -> Iterator[Callable[[Tensor], Covered]]:
    """Give a function of maps, for the last image that the model is run on in the block.

    It returns the part of a map that shows the image, given that the map shows all of the padded
    one.
    """
    images: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, given: images.append(tuple(given[0][0]["image"].shape[-2:]))
    )
    with padded_sizes(model) as padded:

        def covered_part(features: Tensor) -> Covered:
            image, cells = images[-1], (features.shape[-2], features.shape[-1])
            strides = _strides(padded[-1] if padded else image, cells)
            rows, columns = (
                min(1.0, size / (count * stride))
                for size, count, stride in zip(image, cells, strides, strict=True)
            )
            return rows, columns

        try:
            yield covered_part
        finally:
            hook.remove()


def _strides(size: tuple[int, int], cells: tuple[int, int]) -> tuple[float, float]:
    """Return pixels for each cell: a power of two where both counts are due to it.

    The last cell then reaches over the border, which the plain ratio would not tell.
    """
    for power in (2**exponent for exponent in range(max(size).bit_length() + 1)):
        if all(math.ceil(one / power) == count for one, count in zip(size, cells, strict=True)):
            return power, power
    return size[0] / cells[0], size[1] / cells[1]


def without_padding(features: Tensor, covered: Covered) -> Tensor:
    """Return the cells of a map (..., h, w) that show some of the image; float32 on the CPU."""
    rows, columns = (
        max(1, math.ceil(part * cells - 1e-6))
        for part, cells in zip(covered, features.shape[-2:], strict=True)
    )
    return features[..., :rows, :columns].float().cpu()
