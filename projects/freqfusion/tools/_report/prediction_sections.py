"""Sections about what the model predicts, and how its features separate classes."""

from __future__ import annotations

from freqfusion.drawing import RGB
from freqfusion.tools._feature_similarity.figures import build_figures
from freqfusion.tools._feature_similarity.layers import default_layers
from freqfusion.tools._feature_similarity.measuring import Drawing, Measurement, read_scenes
from freqfusion.tools._feature_similarity.report import Row, cells
from freqfusion.tools._report.context import Context
from freqfusion.tools._report.section import (
    Image,
    Section,
    from_figure,
    from_picture,
    paragraphs,
    table,
)
from freqfusion.tools._visualize.page import legends
from freqfusion.tools._visualize.scores import MAIN_SCORE, Scores
from freqfusion.tools._visualize.strips import draw_source

_THRESHOLD = 0.5
_EDGE_WIDTHS = (0, 3)
# A class counts in the means from so many images on, as in the tool for similarity alone.
_MIN_IMAGES = 2


def predictions(context: Context) -> Section:
    """The first images with truth, prediction and errors, for each task of the model."""
    images: list[Image] = []
    classes: dict[str, RGB] = {}
    tasks: dict[str, Scores] = {}
    for source in context.images()[: context.examples]:
        strips = draw_source(
            source,
            context.predictor,
            context.metadata,
            tuple(MAIN_SCORE),
            score_threshold=_THRESHOLD,
        )
        classes |= strips.classes
        tasks |= strips.scores
        for task, picture in strips.pictures.items():
            title = f"{source.path.name}, {task}"
            images.append(from_picture(picture, title, strips.scores.get(task)))
    if not images:
        raise ValueError("the model gives nothing that can be drawn")
    said = f"The first {min(context.examples, len(context.sources))} images of {context.dataset};"
    said += f" instances with a score of {_THRESHOLD:g} or more."
    return Section("Predictions", paragraphs(said) + legends(classes, list(tasks)), images)


def similarity(context: Context) -> Section:
    """How well features separate classes before and after the finest fusion."""
    layers = default_layers(context.model)
    if not layers:
        raise ValueError("the model has neither a fusion nor outputs of a backbone to compare")
    measurement = Measurement(context.predictor, layers, _EDGE_WIDTHS, _MIN_IMAGES)
    drawings: list[Drawing] = []
    for number, scene in enumerate(read_scenes(context.images(), context.metadata, None)):
        drawn = measurement.add(scene, drawn=number < context.examples)
        drawings += [drawn] if drawn else []
    places = {layer.label: str(layer) for layer in layers}
    rows = [
        Row("", label, places[label], width, scores.result())
        for (label, width), scores in measurement.scores.items()
    ]
    body = paragraphs(
        "IntraSim: cosine of pixels to the centre of their class; InterSim: of the centres of"
        " different classes; margin: how much nearer a pixel is to its own centre than to the"
        " nearest other one. A band of 3 are the pixels along class boundaries.",
    )
    body += table([row[1:] for row in cells(rows)], words=2, title="feature similarity")
    layer_names = ", ".join(f"{label} is {place}" for label, place in places.items())
    body += paragraphs(f"{len(context.sources)} images of {context.dataset}; {layer_names}.")
    images = [from_figure(figure, name) for name, figure in build_figures({"": drawings})]
    return Section("Feature similarity", body, images)
