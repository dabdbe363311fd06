"""Which maps of a model to look at: how a user names them, and which are taken unasked.

``[LABEL=]NAME[:PART | @ARGUMENT]``: a module as ``model.named_modules()`` calls it, or an output of
the backbone such as ``p2`` or ``res4``. PART is a key or a place of the module's output (``0``,
``-1``, ``p2``; ``1+2`` is the sum of two), ARGUMENT one of its inputs, by name or place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

_SYNTAX = re.compile(r"(?:(?P<label>[^=]+)=)?(?P<name>[^:@=]+)(?:(?P<kind>[:@])(?P<part>[^:@=]+))?")
_FPN_OUTPUT = re.compile(r"(?P<pyramid>(?:.*\.)?)fpn_output(?P<stage>\d+)")


@dataclass(frozen=True)
class Layer:
    """One map: ``part`` of what the module ``name`` gives, or takes; "" is all of it."""

    label: str
    name: str
    side: Literal["output", "input"] = "output"
    part: str = ""

    def __str__(self) -> str:
        """As a user would write it."""
        sign = "@" if self.side == "input" else ":"
        return self.name + (f"{sign}{self.part}" if self.part else "")


def parse_layer(text: str) -> Layer:
    """The layer that a user named; ValueError for what cannot be one."""
    found = _SYNTAX.fullmatch(text)
    if found is None:
        raise ValueError(
            f"cannot read the layer {text!r}; write NAME, NAME:PART or NAME@ARGUMENT, with LABEL="
            " before it if you like"
        )
    label, name, kind, part = found.group("label", "name", "kind", "part")
    side: Literal["output", "input"] = "input" if kind == "@" else "output"
    return Layer(label or text, name, side, part or "")


def resolve_layers(model: nn.Module, layers: Sequence[Layer]) -> list[Layer]:
    """The same by names of modules.

    Raises:
        ValueError: if a name is neither a module nor an output of the backbone, or comes twice.
    """
    modules = {name for name, _ in model.named_modules() if name}
    outputs = backbone_outputs(model)
    resolved = []
    for layer in layers:
        if layer.name in modules:
            resolved.append(layer)
        elif layer.name in outputs:
            if layer.part:
                raise ValueError(
                    f"{layer}: {layer.name} is an output of the backbone, which has no parts and no"
                    " arguments; name a module instead"
                )
            resolved.append(Layer(layer.label, outputs[layer.name], part=layer.name))
        else:
            near = difflib.get_close_matches(layer.name, [*outputs, *modules], n=4, cutoff=0.5)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(
                f"the model has no module {layer.name!r} and its backbone no such output (it has"
                f" {', '.join(outputs) or 'none'}){hint}"
            )
    labels = [layer.label for layer in resolved]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"the layer {twice[0]} is named twice; give one of them another LABEL=")
    return resolved


def default_layers(model: nn.Module) -> list[Layer]:
    """What the finest hop of the model's pyramid, pixel decoder or head joins, and what it gives.

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
    """Of Mask2Former: the last hop goes from the encoder, or from the layer before, to layer_1."""
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
    """Names of the outputs of the backbone, and of what a pyramid stands on, with their modules."""
    outputs: dict[str, str] = {}
    modules = dict(model.named_modules())
    for name in ("backbone.bottom_up", "backbone"):
        if hasattr(modules.get(name), "output_shape"):
            outputs |= dict.fromkeys(modules[name].output_shape(), name)
    return outputs


def pick(layer: Layer, value: Any) -> Tensor:
    """The part of a module's output, or inputs, that the layer names.

    Raises:
        ValueError: if there is no such part, or it is no tensor.
    """
    parts = [_item(layer, value, key) for key in layer.part.split("+")] if layer.part else [value]
    for part in parts:
        if not isinstance(part, Tensor):
            raise ValueError(
                f"{layer} is {_described(part)}, not a tensor; choose a part of it with NAME:PART"
            )
    total: Tensor = sum(parts[1:], parts[0])
    return total


def _item(layer: Layer, value: Any, key: str) -> Any:
    """A part by its key, its name or its place."""
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if hasattr(value, "_fields") and key in value._fields:
        return getattr(value, key)
    if re.fullmatch(r"-?\d+", key):
        places = list(value.values()) if isinstance(value, Mapping) else value
        if isinstance(places, Sequence) and -len(places) <= int(key) < len(places):
            return places[int(key)]
    raise ValueError(f"{layer}: there is no part {key!r}; {layer.side} is {_described(value)}")


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
