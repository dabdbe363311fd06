"""Run a model on an image and draw what it computes, for ``freqfusion.tools.app``."""

import html
import io
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.drawing import RGB, Picture, draw_image
from freqfusion.drawing.overlays import dimmed, enlarge_map, enlargement
from freqfusion.predictor import Predictor, metadata_of
from freqfusion.tools._images import read_image
from freqfusion.tools._layers import (
    Layer,
    RecordedMap,
    backbone_outputs,
    default_layers,
    find_layers,
    record_maps,
    without_padding,
)

# Formats that hold pixels only; what Pillow would hand to other programs (EPS) is not among them.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
# As many as an image of Cityscapes has; a model gives scores for each of them.
MAX_MODEL_PIXELS = 2048 * 1024
COLORMAP = "viridis"
_NUM_KEPT_MAPS = 6
_OPACITY = 0.82
# Objects from this score on are kept; the page shows those from a higher one.
LOWEST_SCORE = 0.05
# Heading and note of each panel; a click in one of CLICKABLE moves the marked point.
PANELS = {
    "image": ("Image", "click a point, here or in the maps beside it"),
    "prediction": ("Prediction", ""),
    "baseline": ("Prediction of the baseline", ""),
    "confidence": ("Confidence", ""),
    "similarity": ("Similarity to the marked point", ""),
    "before": ("Similarity before fusion", ""),
    "spectrum": ("Spectrum", "of the features before and after fusion"),
    "lattice": ("Sampling lattice", "where the model samples densely"),
    "attention": ("Attention", "what is stretched before each downsampling"),
}
CLICKABLE = ("image", "prediction", "baseline", "confidence", "similarity", "before")

# A picture, and the HTML below it.
Panel = tuple[Picture, str]


@dataclass
class ViewedImage:
    """An image, what the model predicts for it, and the feature maps that were drawn so far.

    ``confidence`` is a map and its description, by task. The model's scores are not kept: those of
    many classes for every pixel would fill the memory. ``baseline``: what the other model predicts.
    """

    image: Picture
    content: Any
    confidence: dict[str, tuple[NDArray[np.float32], str]]
    modulation: Any | None = None
    baseline: Any | None = None
    maps: OrderedDict[str, RecordedMap] = field(default_factory=OrderedDict)


class Viewer:
    """Runs a model on one image at a time and draws panels; not for several threads at once.

    Args:
        cfg: Of the model, with its weights.
        baseline: Configuration of a model to compare with.
    """

    def __init__(self, cfg: Any, *, baseline: Any | None = None) -> None:
        self.predictor, self.metadata = Predictor(cfg), metadata_of(cfg)
        self.baseline = None if baseline is None else Predictor(baseline)
        model = self.predictor.model
        self.fusion = {layer.label: layer for layer in default_layers(model)}
        self.modulated: Any = _modulated_stages(model)
        # Those of the fusion first.
        self.layers = list(dict.fromkeys([*self.fusion, *backbone_outputs(model)]))
        self.first_layer = "fused" if "fused" in self.fusion else self.layers[0]
        absent = {"before"} if "coarse" not in self.fusion else set()
        absent |= {"lattice", "attention"} if self.modulated is None else set()
        absent |= {"baseline"} if baseline is None else set()
        self.panels = [name for name in PANELS if name not in absent]

    def view(self, image: Picture) -> ViewedImage:
        """Run the model on an RGB image, which is made smaller where it has many pixels."""
        from freqfusion.modeling.tta import semantic_kind
        from freqfusion.tools._aliasing import record_downsampling

        image, model = shrunk(image, MAX_MODEL_PIXELS), self.predictor.model
        recording: AbstractContextManager[Any] = nullcontext()
        if self.modulated is not None:
            recording = record_downsampling(model, self.modulated)
        with recording as modulation:
            output = self.predictor(image)
        content = _content_of(output, self.predictor)
        other = None
        if self.baseline is not None:
            other = _content_of(self.baseline(image), self.baseline)
        kind, size = semantic_kind(model), image.shape[:2]
        confidence = {
            task: confidence_map(task, output, content, size, kind) for task in content.tasks()
        }
        return ViewedImage(image, content, confidence, modulation, other)

    def draw(
        self,
        panel: str,
        viewed: ViewedImage,
        task: str,
        layer: str,
        point: tuple[float, float],
        threshold: float = 0.5,
        opacity: float = 1.0,
    ) -> Panel:
        """Draw one of ``panels``.

        Args:
            panel: Its name.
            viewed: The image.
            task: Of the prediction.
            layer: Of the similarity and the spectrum.
            point: (x, y) in 0..1.
            threshold: Objects with a lower score are not drawn.
            opacity: Of the prediction over the image; 0..1.

        Raises:
            ValueError: if the model has no such task or layer.
        """
        draw: dict[str, Callable[[], Panel]] = {
            "image": lambda: (draw_image(viewed.image), caption(PANELS["image"][1])),
            "prediction": lambda: _prediction(
                viewed, viewed.content, task, point, threshold, opacity
            ),
            "baseline": lambda: _prediction(
                viewed, viewed.baseline, task, point, threshold, opacity
            ),
            "confidence": lambda: draw_map(viewed.image, *viewed.confidence[task], (0.0, 1.0)),
            "similarity": lambda: self._similarity(viewed, self._layer(layer), point),
            "before": lambda: self._similarity(viewed, self.fusion["coarse"], point),
            "spectrum": lambda: self._spectrum(viewed, self._layer(layer)),
            "lattice": lambda: self._modulation(viewed, panel),
            "attention": lambda: self._modulation(viewed, panel),
        }
        picture, below = draw[panel]()
        return marked(picture, point) if panel in CLICKABLE else picture, below

    def _similarity(self, viewed: ViewedImage, layer: Layer, point: tuple[float, float]) -> Panel:
        from freqfusion.analysis import point_similarity

        recorded = self._maps(viewed, {layer.label: layer})[layer.label]
        size = viewed.image.shape[0], viewed.image.shape[1]
        values = point_similarity(recorded.features, point, size, covered=recorded.covered)
        array = values.float().cpu().numpy()
        channels, rows, columns = recorded.features.shape
        note = f"{layer}: {channels} channels, {rows} × {columns}"
        return draw_map(viewed.image, array, note, (min(float(array.min()), 0.99), 1.0))

    def _spectrum(self, viewed: ViewedImage, chosen: Layer) -> Panel:
        from freqfusion.analysis import layer_spectrum, layer_spectrum_figure

        layers = {**self.fusion, chosen.label: chosen}
        spectra = []
        for label, recorded in self._maps(viewed, layers).items():
            rows, part = recorded.features.shape[-2], recorded.covered
            stride = self.predictor.inputs(viewed.image)["image"].shape[-2] / (rows * part[0])
            name = label if label == str(layers[label]) else f"{label}: {layers[label]}"
            spectra.append(layer_spectrum(name, without_padding(recorded.features, part), stride))
        return figure_picture(layer_spectrum_figure(spectra)), caption(PANELS["spectrum"][1])

    def _modulation(self, viewed: ViewedImage, panel: str) -> Panel:
        from freqfusion.tools._aliasing import modulation_figure

        seen: Any = viewed.modulation
        figure = modulation_figure(panel, viewed.image, seen)
        return figure_picture(figure), caption(PANELS[panel][1])

    def _layer(self, text: str) -> Layer:
        """Return the layer of this name, or the first where the name is empty."""
        text = text or self.first_layer
        if text in self.fusion:
            return self.fusion[text]
        return find_layers(self.predictor.model, [text])[0]

    def _maps(self, viewed: ViewedImage, layers: Mapping[str, Layer]) -> dict[str, RecordedMap]:
        """Return the maps of layers by label, from memory as far as they are there."""
        absent = [layer for layer in layers.values() if str(layer) not in viewed.maps]
        made = record_maps(self.predictor, viewed.image, absent) if absent else {}
        viewed.maps |= {str(layer): made[layer.label] for layer in absent}
        found = {label: viewed.maps[str(layer)] for label, layer in layers.items()}
        while len(viewed.maps) > _NUM_KEPT_MAPS:
            viewed.maps.popitem(last=False)
        return found


def _content_of(output: Mapping[str, Any], predictor: Predictor) -> Any:
    from freqfusion.evaluation.overlays import output_content

    return output_content(output, predictor.metadata, score_threshold=LOWEST_SCORE)


def _prediction(
    viewed: ViewedImage,
    whole: Any,
    task: str,
    point: tuple[float, float],
    threshold: float,
    opacity: float,
) -> Panel:
    """Draw one task of a prediction; the text says what lies at the point."""
    from freqfusion.evaluation.overlays import Content, draw_content
    from freqfusion.tools.visualize import classes_of

    if getattr(whole, task) is None:
        return dimmed(draw_image(viewed.image)), caption("this model has no such task")
    content = Content(**{task: getattr(whole, task)})
    if content.instance is not None:
        kept = tuple(one for one in content.instance if (one.score or 0) >= threshold)
        content = replace(content, instance=kept)
    drawn = draw_content(viewed.image, content)[task]
    mixed = (1 - opacity) * draw_image(viewed.image) + opacity * drawn
    confidence = viewed.confidence[task][0] if whole is viewed.content else None
    note = f"at the point: {found_at(content, task, point, confidence)}"
    if content.instance is not None:
        count = len(content.instance)
        note += f"; {count} object{'s' * (count != 1)} with a score of {threshold:g} or more"
    picture = np.round(mixed).astype(np.uint8)
    return picture, caption(note, legend=classes_of(content, {task: picture}))


def found_at(
    content: Any,
    task: str,
    point: tuple[float, float],
    confidence: NDArray[np.float32] | None = None,
) -> str:
    """Return the class at a point (x, y) in 0..1, with its score where there is one."""

    def at(values: NDArray[Any]) -> Any:
        height, width = values.shape
        row, column = int(point[1] * height), int(point[0] * width)
        return values[min(row, height - 1), min(column, width - 1)]

    name = "nothing"
    if task == "instance":
        hit = [one for one in content.instance if one.mask is not None and at(one.mask)]
        best = max(hit, key=lambda one: one.score or 0, default=None)
        return name if best is None else f"{best.name}, {best.score or 0:.2f}"
    if task == "semantic":
        label = int(at(content.semantic.labels))
        name = content.semantic.names[label] if label >= 0 else name
    else:
        found = int(at(content.panoptic.ids))
        name = next((one.name for one in content.panoptic.segments if one.id == found), name)
    if confidence is None or name == "nothing":
        return name
    return f"{name}, {float(at(confidence)):.2f}"


def confidence_map(
    task: str, output: Mapping[str, Any], content: Any, size: tuple[int, ...], kind: str
) -> tuple[NDArray[np.float32], str]:
    """Return the confidence (height, width) in 0..1, and what it is in words.

    Semantic: the probability of the best class of logits, or its share of the sum of scores.
    Instance: the score of the best object there, 0 where none is. Panoptic: that of the segment,
    and of stuff the semantic one.
    """
    values: NDArray[np.float32] = np.zeros(size, dtype=np.float32)
    if task == "instance":
        for instance in content.instance or ():
            if instance.mask is not None:
                score = np.where(instance.mask, instance.score or 0, 0).astype(np.float32)
                values = np.maximum(values, score)
        return values, "score of the object; dark where there is none"
    if "sem_seg" in output:
        scores = output["sem_seg"].float()
        total = scores.sum(dim=0).clamp_min(1e-6)
        best = scores.softmax(dim=0).amax(dim=0) if kind == "logits" else scores.amax(dim=0) / total
        values = best.cpu().numpy()
    if task == "semantic":
        return values, "share of the most probable class"
    ids, infos = output["panoptic_seg"]
    ids = ids.cpu().numpy()
    for info in infos or ():
        if info.get("score") is not None:
            values[ids == info["id"]] = float(info["score"])
    stuff = "of the thing; of stuff, share of the most probable class"
    return values, f"score {stuff if 'sem_seg' in output else 'of the segment'}"


def read_upload(path: str, max_pixels: int) -> Picture:
    """Read an uploaded image in RGB as training reads it, once its header has been checked.

    Raises:
        ValueError: if it is none of ``FORMATS``, broken, of more than 8 bits of grey, or too large,
            small or narrow.
    """
    from PIL import Image

    from freqfusion.data.reading import in_words

    name = Path(path).name
    try:
        with Image.open(path, formats=FORMATS) as file:
            short, long = sorted(file.size)
    except Exception as error:
        raise ValueError(
            f"cannot read {name}: {in_words(error)}; known are {', '.join(FORMATS)}"
        ) from error
    if short < 8 or long > 20 * short or short * long > max_pixels:
        raise ValueError(
            f"{name} has sides of {short} and {long} pixels, but they must be 8 pixels or more, the"
            " longer one at most 20 times the shorter, and an image may have"
            f" {max_pixels / 1e6:g} million pixels"
        )
    try:
        return read_image(Path(path))
    except ValueError as error:
        raise ValueError(str(error).replace(path, name)) from error


def shrunk(image: Picture, most: int) -> Picture:
    """Return the image with no more than ``most`` pixels."""
    from PIL import Image

    height, width = image.shape[:2]
    if height * width <= most:
        return image
    scale = (most / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def draw_map(image: Picture, values: NDArray[Any], note: str, scale: tuple[float, float]) -> Panel:
    """Draw values (height, width) as colors over a dark copy of the image."""
    from matplotlib import colormaps

    low, high = scale
    enlarged = enlarge_map(values, enlargement(*image.shape[:2]))
    colors = 255 * colormaps[COLORMAP]((enlarged - low) / (high - low))[..., :3]
    mixed = (1 - _OPACITY) * dimmed(draw_image(image)) + _OPACITY * colors
    return np.round(mixed).astype(np.uint8), caption(note, scale=scale)


def marked(picture: Picture, point: tuple[float, float]) -> Picture:
    """Return a copy with a white and black ring around the point (x, y) in 0..1."""
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(picture.copy())
    x, y = point[0] * canvas.width, point[1] * canvas.height
    for color, radius in (("black", 12), ("white", 10), ("black", 6)):
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(canvas).ellipse(box, outline=color, width=4 if color == "white" else 2)
    return np.asarray(canvas)


def figure_picture(figure: Any) -> Picture:
    """Return a matplotlib figure as a picture, with room for the heading and buttons above it."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    picture = np.asarray(Image.open(buffer).convert("RGB"))
    return np.pad(picture, ((picture.shape[0] // 10, 0), (0, 0), (0, 0)), constant_values=255)


def caption(
    note: str, scale: tuple[float, float] | None = None, legend: Mapping[str, RGB] | None = None
) -> str:
    """Return the HTML below a picture: the ends of a scale of colors, a note, and a legend."""
    parts = [f"<p>{html.escape(note)}</p>"] if note else []
    if scale is not None:
        parts.insert(0, f"<div class=scale>{scale[0]:.2f}<i></i>{scale[1]:.2f}</div>")
    for name, (red, green, blue) in (legend or {}).items():
        swatch = f"<i style='background: rgb({red}, {green}, {blue})'></i>"
        parts.append(f"<span class=entry>{swatch}{html.escape(name)}</span>")
    return f"<div class=below>{''.join(parts)}</div>"


def _modulated_stages(model: Any) -> Any | None:
    """Return where Spatial Frequency Modulation acts in a model; None for another model."""
    from freqfusion.modeling.sfm.backbone import ModulatedBackbone
    from freqfusion.tools._aliasing import find_downsampling

    if not any(isinstance(part, ModulatedBackbone) for part in model.modules()):
        return None
    places = find_downsampling(model)
    return places if places.modulated is not None else None
