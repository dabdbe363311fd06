"""Record maps of a model, and measure how well they separate classes, one image at a time.

A user names a map ``[LABEL=]NAME[:PART | @ARGUMENT]``: a module as ``model.named_modules()`` calls
it, or an output of the backbone such as ``p2`` or ``res4``. PART is a key or a place of the
module's output (``0``, ``-1``, ``p2``; ``1+2`` is the sum of two), ARGUMENT one of its inputs, by
name or place.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from freqfusion.analysis import FeatureSimilarity, SimilarityMaps
from freqfusion.drawing import VOID, Classes, LabelMap, PanopticMap, Picture
from freqfusion.predictor import Predictor, padded_sizes
from freqfusion.tools._arguments import suggestion
from freqfusion.tools._images import ImageSource, read_image

_SYNTAX = re.compile(r"(?:(?P<label>[^=]+)=)?(?P<name>[^:@=]+)(?:(?P<kind>[:@])(?P<part>[^:@=]+))?")
_FPN_OUTPUT = re.compile(r"(?P<pyramid>(?:.*\.)?)fpn_output(?P<stage>\d+)")

LabelSource = Literal["semantic", "panoptic"]
# Maps that are kept for a figure are no larger than this.
_DRAWN_SIDE = 800


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
    """Return the layer that a user named; ValueError for what cannot be one."""
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
    """Return layers by the names of modules.

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
            hint = suggestion(layer.name, [*outputs, *modules])
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
    parts = [_item(layer, value, key) for key in layer.part.split("+")] if layer.part else [value]
    for part in parts:
        if not isinstance(part, Tensor):
            raise ValueError(
                f"{layer} is {_described(part)}, not a tensor; choose a part of it with NAME:PART"
            )
    total: Tensor = sum(parts[1:], parts[0])
    return total


def _item(layer: Layer, value: Any, key: str) -> Any:
    """Return a part by its key, its name or its place."""
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
    with ExitStack() as stack:
        for layer in layers:
            module, hook = model.get_submodule(layer.name), _hook(layer, found, len(layers))
            # Inputs are read before the module can change them in place.
            register: Any = (
                module.register_forward_pre_hook
                if layer.side == "input"
                else module.register_forward_hook
            )
            stack.callback(register(hook, with_kwargs=True).remove)
        padded = stack.enter_context(padded_sizes(model))
        with suppress(_EnoughError):
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
    """Return what a module was called with, by the names of its arguments."""
    try:
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except TypeError:
        return {**{str(place): value for place, value in enumerate(args)}, **kwargs}


def covered_part(
    features: Tensor, image: tuple[int, int], padded: tuple[int, int]
) -> tuple[float, float]:
    """Return part of a map that shows the image, given that the map shows all of the padded one."""
    cells = (features.shape[-2], features.shape[-1])
    parts = [
        min(1.0, size / (count * stride))
        for size, count, stride in zip(image, cells, _strides(padded, cells), strict=True)
    ]
    return parts[0], parts[1]


def _strides(size: tuple[int, int], cells: tuple[int, int]) -> tuple[float, float]:
    """Return pixels for each cell: a power of two where both counts are due to it.

    The last cell then reaches over the border, which the plain ratio would not tell.
    """
    for power in (2**exponent for exponent in range(max(size).bit_length() + 1)):
        if all(math.ceil(one / power) == count for one, count in zip(size, cells, strict=True)):
            return power, power
    return size[0] / cells[0], size[1] / cells[1]


def true_labels(
    entry: Mapping[str, Any], metadata: Any, size: tuple[int, int], source: LabelSource | None
) -> LabelMap:
    """Labels of an image of ``size`` (height, width); -1 is void.

    ``"semantic"`` are the data set's semantic labels, or those of its panoptic ground truth where
    it has one label space; ``"panoptic"`` the categories of its segments, the things first, and
    crowds void; None takes the first that there is.

    Raises:
        ValueError: if there is no such ground truth, or it is not of the image's size.
    """
    from freqfusion.evaluation.overlays import gt_content

    content = gt_content(entry, metadata, size)
    found = content.semantic if source != "panoptic" else None
    if found is None and source != "semantic" and content.panoptic is not None:
        found = categories(content.panoptic, metadata)
    if found is None:
        raise ValueError(
            f"{entry.get('file_name', 'the image')} has no {source or 'semantic or panoptic'}"
            " ground truth, by which features are compared; take a data set that has"
        )
    if found.labels.shape != size:
        raise ValueError(
            f"{entry.get('file_name', 'the image')} is {size[0]} x {size[1]} (height x width), but"
            f" its ground truth is {found.labels.shape[0]} x {found.labels.shape[1]}"
        )
    return found


def categories(panoptic: PanopticMap, metadata: Any) -> LabelMap:
    """Return the category of each pixel's segment, the things before the stuff; crowds are void."""
    classes = Classes(metadata)
    labels = np.full(panoptic.ids.shape, VOID, dtype=np.int64)
    for segment in panoptic.segments:
        if not segment.is_crowd:
            labels[panoptic.ids == segment.id] = segment.category
    names = (*classes.things, *classes.stuff)
    return LabelMap(labels, names, (*classes.thing_colors, *classes.stuff_colors))


@dataclass(frozen=True)
class LabeledImage:
    """An image of the data set, and its ground truth."""

    name: str
    image: Picture
    gt: LabelMap


@dataclass(frozen=True)
class Drawing:
    """What a figure shows of one image and one model."""

    scene: LabeledImage
    maps: Mapping[str, SimilarityMaps]


def read_scenes(
    sources: Iterable[ImageSource], metadata: Any, labels: LabelSource | None
) -> Iterator[LabeledImage]:
    """Yield the images with their ground truth; ValueError for one that cannot be read."""
    for source in sources:
        image = read_image(source.path)
        size = (image.shape[0], image.shape[1])
        gt = true_labels(source.gt or {}, metadata, size, labels)
        yield LabeledImage(source.path.name, image, gt)


class Measurement:
    """The scores of some layers of a model for each width of the boundary band."""

    def __init__(
        self,
        predictor: Predictor,
        layers: Sequence[Layer],
        edge_widths: Sequence[int],
        min_images: int,
    ) -> None:
        self.predictor, self.layers = predictor, layers
        self.edge_widths, self.min_images = edge_widths, min_images
        self.scores: dict[tuple[str, int], FeatureSimilarity] = {}

    def add(self, scene: LabeledImage, drawn: bool) -> Drawing | None:
        """Measure an image; the maps of the first width for a figure if they are to be drawn."""
        inputs = self.predictor.inputs(scene.image)
        recorded = record_maps(self.predictor.model, inputs, self.layers)
        kept: dict[str, SimilarityMaps] = {}
        for label, one in recorded.items():
            for width in self.edge_widths:
                scores = self._scores(label, width, len(scene.gt.names))
                try:
                    maps = scores.update(one.features, scene.gt.labels, one.covered)
                except ValueError as error:
                    raise ValueError(f"{label} of {scene.name}: {error}") from error
                if drawn and width == self.edge_widths[0]:
                    kept[label] = _thinned(maps)
        return Drawing(_thinned_scene(scene), kept) if drawn else None

    def _scores(self, label: str, width: int, classes: int) -> FeatureSimilarity:
        return self.scores.setdefault(
            (label, width),
            FeatureSimilarity(
                classes, edge_width=width, ignore_label=VOID, min_images=self.min_images
            ),
        )


def _step(shape: Sequence[int]) -> int:
    return math.ceil(max(shape[:2]) / _DRAWN_SIDE)


def _thinned(maps: SimilarityMaps) -> SimilarityMaps:
    """Return every few pixels of a large map: figures are small, and many are kept at a time."""
    step = _step(maps.own.shape)
    names = ("own", "margin", "measured", "labels")
    parts: dict[str, Any] = {name: getattr(maps, name)[::step, ::step].copy() for name in names}
    return replace(maps, **parts)


def _thinned_scene(scene: LabeledImage) -> LabeledImage:
    step = _step(scene.image.shape)
    gt = replace(scene.gt, labels=np.ascontiguousarray(scene.gt.labels[::step, ::step]))
    return LabeledImage(scene.name, np.ascontiguousarray(scene.image[::step, ::step]), gt)
