"""A model, the images that it has seen, and all that can be seen of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from freqfusion.drawing import Picture
from freqfusion.tools._app.looks import Look, Looks
from freqfusion.tools._app.pictures import Shown, draw_map, draw_plain, figure_png
from freqfusion.tools._app.uploads import shrunk
from freqfusion.tools._feature_similarity import (
    Layer,
    RecordedMap,
    backbone_outputs,
    default_layers,
    parse_layer,
    record_maps,
    resolve_layers,
)
from freqfusion.tools._model import Predictor

# As many as an image of Cityscapes has.
MOST_PIXELS = 2048 * 1024


class Viewer:
    """Looks at one image at a time; not for several threads at once.

    Args:
        predictor: Of the model.
        metadata: Names and colours of its classes.
        score_threshold: Instances below it are not drawn.
    """

    def __init__(self, predictor: Predictor, metadata: Any, *, score_threshold: float) -> None:
        self.predictor, self.metadata = predictor, metadata
        self.score_threshold = score_threshold
        self.fusion = {layer.label: layer for layer in default_layers(predictor.model)}
        self.places = _modulated_places(predictor.model)
        self.looks = Looks()

    def layers(self) -> tuple[list[str], str]:
        """Layers to choose from, those of the fusion first, and the one to begin with."""
        known = list(dict.fromkeys([*self.fusion, *backbone_outputs(self.predictor.model)]))
        return known, "fused" if "fused" in self.fusion else known[0]

    def look(self, image: Picture) -> tuple[str, Look]:
        """Run the model on an RGB image, made smaller where it has many pixels.

        Returns the name of the look, and the look.
        """
        from freqfusion.evaluation.pictures import output_content
        from freqfusion.modeling.tta import semantic_kind
        from freqfusion.tools._aliasing import recorded
        from freqfusion.tools._app.confidence import confidence_map

        image = shrunk(image, MOST_PIXELS)
        inputs = self.predictor.inputs(image)
        modulation = None
        with torch.no_grad():
            if self.places is None:
                output = self.predictor.model([inputs])[0]
            else:
                with recorded(self.places) as modulation:
                    output = self.predictor.model([inputs])[0]
        content = output_content(output, self.metadata, score_threshold=self.score_threshold)
        size, kind = (image.shape[0], image.shape[1]), semantic_kind(self.predictor.model)
        confidence = {
            task: confidence_map(task, output, content, size, kind) for task in content.tasks()
        }
        look = Look(image, inputs, content, confidence, modulation)
        return self.looks.add(look), look

    def kinds(self, look: Look) -> list[str]:
        """What can be shown of an image, in the order of the page."""
        kinds = ["prediction", "confidence"] if look.content.tasks() else []
        kinds += ["similarity", *(["before"] if "coarse" in self.fusion else []), "spectrum"]
        return kinds + (["lattice", "attention"] if look.modulation else [])

    def show(self, kind: str, look: Look, request: Mapping[str, Any]) -> Shown:
        """One picture: ``request`` has the task, the layer and the point (x, y) where needed.

        Raises:
            ValueError: if it asks for what there is not.
        """
        draw: dict[str, Callable[[], Shown]] = {
            "image": lambda: draw_plain(look.image),
            "prediction": lambda: self._prediction(look, self._task(look, request)),
            "confidence": lambda: self._confidence(look, self._task(look, request)),
            "similarity": lambda: self._similarity(look, self._layer(request), request),
            "before": lambda: self._similarity(look, self.fusion["coarse"], request),
            "spectrum": lambda: self._spectrum(look, request),
            "lattice": lambda: self._modulation(look, kind),
            "attention": lambda: self._modulation(look, kind),
        }
        if kind not in ("image", *self.kinds(look)):
            raise ValueError(f"this model has no {kind!r}; it has {', '.join(self.kinds(look))}")
        return draw[kind]()

    def _prediction(self, look: Look, task: str) -> Shown:
        from freqfusion.evaluation.pictures import Content, draw_content
        from freqfusion.tools.visualize import classes_of

        chosen = Content(**{task: getattr(look.content, task)})
        picture = draw_content(look.image, chosen)[task]
        note = ""
        if task == "instance":
            found = len(look.content.instance or ())
            note = f"{found} objects with a score of {self.score_threshold:g} or more"
        return Shown(picture, note, legend=classes_of(chosen, {task: picture}))

    def _confidence(self, look: Look, task: str) -> Shown:
        values, note = look.confidence[task]
        return draw_map(look.image, values, (0.0, 1.0), note)

    def _similarity(self, look: Look, layer: Layer, request: Mapping[str, Any]) -> Shown:
        from freqfusion.analysis import point_similarity

        point = (_part(request, "x"), _part(request, "y"))
        recorded = self._maps(look, {layer.label: layer})[layer.label]
        size = look.image.shape[0], look.image.shape[1]
        values = point_similarity(recorded.features, point, size, covered=recorded.covered)
        array = values.float().cpu().numpy()
        low = min(float(array.min()), 0.99)
        channels, rows, columns = recorded.features.shape
        note = f"{layer}: {channels} channels, {rows} × {columns}"
        return draw_map(look.image, array, (low, 1.0), note)

    def _spectrum(self, look: Look, request: Mapping[str, Any]) -> Shown:
        from freqfusion.analysis import layer_spectrum, layer_spectrum_figure

        chosen = self._layer(request)
        layers = {**self.fusion, chosen.label: chosen}
        spectra = []
        for label, recorded in self._maps(look, layers).items():
            features, stride = _uncovered(recorded, look.inputs["image"].shape[-2])
            name = label if label == str(layers[label]) else f"{label}: {layers[label]}"
            spectra.append(layer_spectrum(name, features, stride))
        return Shown(figure_png(layer_spectrum_figure(spectra)))

    def _modulation(self, look: Look, kind: str) -> Shown:
        from freqfusion.analysis import attention_figure, lattice_figure
        from freqfusion.tools._aliasing import resized

        seen, places = look.modulation, self.places
        assert seen is not None
        assert places is not None
        picture = resized(look.image, *look.inputs["image"].shape[-2:])
        point = places.steps[0].point
        rows, columns = seen.maps[point.feature].shape[-2:]
        covered = (rows * point.stride, columns * point.stride)
        if kind == "lattice":
            lattices = [(name, seen.stacks[name], own[0]) for name, own in seen.own.items()]
            return Shown(figure_png(lattice_figure(picture, lattices, covered=covered)))
        logits = [(name, seen.stacks[name], own[1].logits) for name, own in seen.own.items()]
        return Shown(figure_png(attention_figure(picture, logits, covered=covered)))

    def _task(self, look: Look, request: Mapping[str, Any]) -> str:
        task, known = request.get("task"), look.content.tasks()
        if task not in known:
            raise ValueError(f"the model has no task {task!r}; it has {', '.join(known)}")
        return str(task)

    def _layer(self, request: Mapping[str, Any]) -> Layer:
        """The layer that was asked for, or that one begins with."""
        text = str(request.get("layer") or self.layers()[1])
        if text in self.fusion:
            return self.fusion[text]
        return resolve_layers(self.predictor.model, [parse_layer(text)])[0]

    def _maps(self, look: Look, layers: Mapping[str, Layer]) -> dict[str, RecordedMap]:
        """The maps of layers by label, from memory as far as they are there."""
        absent = [layer for layer in layers.values() if str(layer) not in look.maps]
        found: dict[str, RecordedMap] = {}
        if absent:
            made = record_maps(self.predictor.model, look.inputs, absent)
            found = {str(layer): made[layer.label] for layer in absent}
        known = {**look.maps, **found}
        look.keep(found)
        return {label: known[str(layer)] for label, layer in layers.items()}


def _uncovered(recorded: RecordedMap, height: int) -> tuple[torch.Tensor, float]:
    """The cells that show the image, not its padding, and how many pixels high they are."""
    rows, columns = (
        max(1, round(cells * part))
        for cells, part in zip(recorded.features.shape[1:], recorded.covered, strict=True)
    )
    stride = height / (recorded.features.shape[1] * recorded.covered[0])
    return recorded.features[:, :rows, :columns], stride


def _part(request: Mapping[str, Any], name: str) -> float:
    value = request.get(name, 0.5)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, not {value!r}")
    return float(value)


def _modulated_places(model: Any) -> Any | None:
    """Where a model with Spatial Frequency Modulation bends its maps; None for another model."""
    from freqfusion.modeling.sfm.backbone import ModulatedBackbone
    from freqfusion.tools._aliasing import find_downsampling

    if not any(isinstance(part, ModulatedBackbone) for part in model.modules()):
        return None
    places = find_downsampling(model)
    return places if places.modulated is not None else None
