"""One image drawn: for each task a row of image, truth, prediction and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from freqfusion.drawing import (
    INSTANCE_ERRORS,
    PANOPTIC_ERRORS,
    RGB,
    SEMANTIC_ERRORS,
    Picture,
    draw_image,
    side_by_side,
)
from freqfusion.tools._visualize.scores import Scores, image_scores
from freqfusion.tools._visualize.sources import Source, read_image

if TYPE_CHECKING:
    from freqfusion.evaluation.pictures import Content

ERRORS: Mapping[str, Mapping[str, RGB]] = {
    "semantic": SEMANTIC_ERRORS,
    "instance": INSTANCE_ERRORS,
    "panoptic": PANOPTIC_ERRORS,
}


@dataclass(frozen=True)
class Strips:
    """The rows of one image and their scores, by task; the classes in them with their colours."""

    pictures: Mapping[str, Picture]
    scores: Mapping[str, Scores] = field(default_factory=dict)
    classes: Mapping[str, RGB] = field(default_factory=dict)


def draw_source(
    source: Source,
    predict: Callable[[Picture], Mapping[str, Any]] | None,
    metadata: Any,
    tasks: Sequence[str],
    *,
    score_threshold: float,
) -> Strips:
    """Read, predict and draw one image.

    Raises:
        ValueError: if the image or its truth cannot be read, or do not fit each other.
    """
    from freqfusion.evaluation.pictures import output_content, truth_content

    image = read_image(source.path)
    truth = prediction = None
    try:
        if source.truth is not None:
            truth = truth_content(source.truth, metadata, image.shape[:2])
        if predict is not None:
            output = predict(image)
            prediction = output_content(output, metadata, score_threshold=score_threshold)
        return draw_strips(image, prediction, truth, tasks)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error


def draw_strips(
    image: Picture,
    prediction: Content | None,
    truth: Content | None,
    tasks: Sequence[str],
) -> Strips:
    """Draw the given tasks, as far as the prediction (or else the truth) has them."""
    from freqfusion.evaluation.pictures import Content, draw_content, draw_differences

    nothing = Content()
    guess, real = prediction or nothing, truth or nothing
    wanted = (guess if prediction is not None else real).tasks()
    drawn = {"truth": draw_content(image, real), "prediction": draw_content(image, guess)}
    drawn["errors"] = draw_differences(image, guess, real)
    plain = draw_image(image)
    pictures = {}
    for task in wanted:
        if task not in tasks:
            continue
        panels = {title: by_task[task] for title, by_task in drawn.items() if task in by_task}
        legend = ERRORS[task] if "errors" in panels else None
        titles = ["image", *panels]
        pictures[task] = side_by_side([plain, *panels.values()], titles, legend=legend)
    scores = {task: one for task, one in image_scores(guess, real).items() if task in pictures}
    classes = classes_of(guess, pictures) | classes_of(real, pictures)
    return Strips(pictures, scores, classes)


def classes_of(content: Content, tasks: Mapping[str, Picture]) -> dict[str, RGB]:
    """Names and colours of what a content shows; objects have colours of their own."""
    classes: dict[str, RGB] = {}
    if content.semantic is not None and "semantic" in tasks:
        present = sorted({*content.semantic.labels.ravel().tolist()} - {-1})
        classes |= {content.semantic.names[at]: content.semantic.colors[at] for at in present}
    if content.panoptic is not None and "panoptic" in tasks:
        classes |= {one.name: one.color for one in content.panoptic.segments}
    return classes
