"""Look at what a model predicts: ``python -m freqfusion.tools.visualize --config-file X ...``.

Draws images of a registered data set, or any image files: for each task that the model has, the
image, the ground truth (where a data set has it), the prediction and its errors. Writes PNG
files and ``index.html``, a page that shows them all, the worst first if asked. With
``--truth-only`` the ground truth of a data set is drawn, and no model is needed.
"""

from __future__ import annotations

import argparse
import html
import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from freqfusion.data.workers import progress
from freqfusion.drawing import (
    INSTANCE_ERRORS,
    PANOPTIC_ERRORS,
    RGB,
    SEMANTIC_ERRORS,
    Instance,
    LabelMap,
    PanopticMap,
    Picture,
    draw_image,
    match_instances,
    side_by_side,
)
from freqfusion.drawing.matching import segment_infos
from freqfusion.files import write_whole
from freqfusion.metrics import ConfusionMatrix, PanopticQuality
from freqfusion.predictor import Predictor, check_weights, metadata_of, read_config
from freqfusion.tools._arguments import (
    add_image_options,
    model_parser,
    number_from,
    parse,
    unit_score,
)
from freqfusion.tools._images import ImageSource, from_dataset, from_files, read_image
from freqfusion.tools._page import SORTING, caption, document

if TYPE_CHECKING:
    from freqfusion.evaluation.overlays import Content


logger = logging.getLogger(__name__)

# The score of an image by task.
MAIN_SCORE = {"semantic": "mIoU", "instance": "F1", "panoptic": "PQ"}
ERRORS: Mapping[str, Mapping[str, RGB]] = {
    "semantic": SEMANTIC_ERRORS,
    "instance": INSTANCE_ERRORS,
    "panoptic": PANOPTIC_ERRORS,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the images; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    try:
        page, cards, skipped = run(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"visualize: {error}", file=sys.stderr)
        return 2
    pictures = sum(len(card.files) for card in cards)
    said = f"; {skipped} skipped, see above" if skipped else ""
    print(f"drew {len(cards)} images ({pictures} pictures){said}\npage: {page}")
    return 0


def run(options: argparse.Namespace) -> tuple[Path, list[Card], int]:
    """Draw everything; return the page, what is on it, and how many images could not be used."""
    from PIL import Image

    _check(options)
    cfg = read_config(
        options.config_file or "",
        options.weights or None,
        options.opts,
        unsafe=options.allow_unsafe_config,
    )
    if not options.truth_only:
        check_weights(cfg.MODEL.WEIGHTS)
    if options.dataset:
        sources, metadata = from_dataset(options.dataset, options.limit)
    else:
        sources, metadata = from_files(options.input, options.limit), metadata_of(cfg)
    predict = None if options.truth_only else Predictor(cfg)
    (options.output / "images").mkdir(parents=True, exist_ok=True)
    cards: list[Card] = []
    classes: dict[str, RGB] = {}
    skipped = 0
    for number, source in enumerate(progress(sources, "drawing", "image")):
        try:
            strips = draw_source(source, predict, metadata, score_threshold=options.score_threshold)
        except ValueError as error:
            logger.warning("skipped: %s", error)
            skipped += 1
            continue
        files = {}
        for task, picture in strips.pictures.items():
            files[task] = f"images/{number:05d}_{source.path.stem}_{task}.png"
            Image.fromarray(picture).save(options.output / files[task])
        if files:
            cards.append(Card(source.path.name, files, strips.scores))
            classes |= strips.classes
    if not cards:
        side = "data set" if options.truth_only else "model"
        reason = f"the {side} has nothing that can be drawn"
        if skipped:
            reason = f"none of the {len(sources)} images could be used, see above"
        raise ValueError(f"nothing was drawn: {reason}")
    title = options.dataset or ", ".join(options.input)
    model = "Ground truth of" if options.truth_only else f"{Path(options.config_file).stem} on"
    page = options.output / "index.html"
    write_whole(page, render_page(f"{model} {title}", _notes(options, cards), cards, classes))
    return page, cards, skipped


def _check(options: argparse.Namespace) -> None:
    if options.truth_only and not options.dataset:
        raise ValueError(
            "--truth-only needs a data set, which has the ground truth: give --dataset NAME"
        )
    if not options.truth_only and not options.config_file:
        raise ValueError(
            "a model needs --config-file; to draw a data set without a model, add --truth-only"
        )
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; name a folder")


def _notes(options: argparse.Namespace, cards: Sequence[Card]) -> list[str]:
    notes = [f"{len(cards)} image{'s' * (len(cards) > 1)}"]
    if not options.truth_only and any("instance" in card.files for card in cards):
        notes.append(f"instances with a score of {options.score_threshold:g} or more")
    for task, score in MAIN_SCORE.items():
        values = [card.scores[task] for card in cards if task in card.scores]
        values = [value for value in values if not math.isnan(value)]
        if values:
            notes.append(f"{score} of an image: {sum(values) / len(values):.1f} on average")
    return notes


def _parser() -> argparse.ArgumentParser:
    parser = model_parser(
        "visualize",
        "Draw predictions beside the ground truth, and a page to browse them.",
        config_required=False,
    )
    add = parser.add_argument
    add_image_options(parser)
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--limit", type=number_from(1), metavar="N", help="draw the first N images only")
    add("--score-threshold", type=unit_score, default=0.5, metavar="S", help="of instances; 0.5")
    add(
        "--truth-only", action="store_true", help="draw the data set's ground truth; needs no model"
    )
    return parser


def image_scores(prediction: Content, gt: Content) -> dict[str, float]:
    """Return the score of each task that both have; nan where there is nothing to compare."""
    scores = {}
    if prediction.semantic is not None and gt.semantic is not None:
        scores["semantic"] = semantic_score(prediction.semantic, gt.semantic)
    if prediction.instance is not None and gt.instance is not None:
        scores["instance"] = instance_score(prediction.instance, gt.instance)
    if prediction.panoptic is not None and gt.panoptic is not None:
        scores["panoptic"] = panoptic_score(prediction.panoptic, gt.panoptic)
    return scores


def semantic_score(prediction: LabelMap, gt: LabelMap) -> float:
    """Return mIoU over the classes in the image's ground truth or prediction."""
    classes = max(len(prediction.names), len(gt.names))
    confusion = ConfusionMatrix(classes, ignore_label=-1)
    confusion.update(prediction.labels, gt.labels)
    return 100 * confusion.mean_iou()


def instance_score(prediction: tuple[Instance, ...], gt: tuple[Instance, ...]) -> float:
    """Return F1 of the drawn predictions at mask IoU 1/2."""
    found = match_instances(prediction, gt)
    whole = 2 * len(found.matched) + len(found.spurious) + len(found.missed)
    return 200 * len(found.matched) / whole if whole else math.nan


def panoptic_score(prediction: PanopticMap, gt: PanopticMap) -> float:
    """Return PQ over the categories in the image's ground truth or prediction."""
    kinds = {one.category: one.is_thing for one in (*prediction.segments, *gt.segments)}
    if not kinds:
        return math.nan
    quality = PanopticQuality([{"id": number, "isthing": kind} for number, kind in kinds.items()])
    guess, real = segment_infos(prediction), segment_infos(gt)
    quality.update(np.asarray(prediction.ids), guess, np.asarray(gt.ids), real)
    return 100 * quality.result().groups["All"].pq


def score_text(task: str, scores: Mapping[str, float]) -> str:
    """Return the name and the value of a task's score; nothing where there is none."""
    if task not in scores:
        return ""
    value = "–" if math.isnan(scores[task]) else f"{scores[task]:.1f}"
    return f"{MAIN_SCORE[task]} {value}"


@dataclass(frozen=True)
class Strips:
    """The rows of one image and their scores, by task; the classes in them with their colors."""

    pictures: Mapping[str, Picture]
    scores: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, RGB] = field(default_factory=dict)


def draw_source(
    source: ImageSource,
    predict: Callable[[Picture], Mapping[str, Any]] | None,
    metadata: Any,
    *,
    score_threshold: float,
) -> Strips:
    """Read, predict and draw one image.

    Raises:
        ValueError: if the image or its ground truth cannot be read, or do not fit each other.
    """
    from freqfusion.evaluation.overlays import gt_content, output_content

    image = read_image(source.path)
    gt = prediction = None
    try:
        if source.gt is not None:
            gt = gt_content(source.gt, metadata, image.shape[:2])
        if predict is not None:
            output = predict(image)
            prediction = output_content(output, metadata, score_threshold=score_threshold)
        return draw_strips(image, prediction, gt)
    except ValueError as error:
        raise ValueError(f"{source.path}: {error}") from error


def draw_strips(image: Picture, prediction: Content | None, gt: Content | None) -> Strips:
    """Draw the tasks of the prediction, or else of the ground truth."""
    from freqfusion.evaluation.overlays import Content, draw_content, draw_differences

    guess, real = prediction or Content(), gt or Content()
    drawn = {"ground truth": draw_content(image, real), "prediction": draw_content(image, guess)}
    drawn["errors"] = draw_differences(image, guess, real)
    pictures = {}
    for task in (guess if prediction is not None else real).tasks():
        panels = {title: by_task[task] for title, by_task in drawn.items() if task in by_task}
        legend = ERRORS[task] if "errors" in panels else None
        row = [draw_image(image), *panels.values()]
        # Two in a row, so that labels can be read where the page is as wide as a screen.
        pictures[task] = side_by_side(row, ["image", *panels], columns=2, legend=legend)
    scores = {task: one for task, one in image_scores(guess, real).items() if task in pictures}
    classes = classes_of(guess, pictures) | classes_of(real, pictures)
    return Strips(pictures, scores, classes)


def classes_of(content: Content, tasks: Mapping[str, Picture]) -> dict[str, RGB]:
    """Return names and colors of what a content shows; objects have colors of their own."""
    classes: dict[str, RGB] = {}
    if content.semantic is not None and "semantic" in tasks:
        present = sorted({*content.semantic.labels.ravel().tolist()} - {-1})
        classes |= {content.semantic.names[at]: content.semantic.colors[at] for at in present}
    if content.panoptic is not None and "panoptic" in tasks:
        classes |= {one.name: one.color for one in content.panoptic.segments}
    return classes


@dataclass(frozen=True)
class Card:
    """One image of the sheet: by task, the file of its row (relative to the page) and scores."""

    name: str
    files: Mapping[str, str]
    scores: Mapping[str, float]


def render_page(
    title: str, notes: Sequence[str], cards: Sequence[Card], classes: Mapping[str, RGB]
) -> str:
    """Return the whole page, which works without its script too."""
    tasks = list(dict.fromkeys(task for card in cards for task in card.files))
    scored = [task for task in tasks if any(task in card.scores for card in cards)]
    orders = "".join(
        f'<option value="{task}">worst {MAIN_SCORE[task]} first</option>' for task in scored
    )
    controls = (
        '<label>order <select id="order"><option value="">as they came</option>'
        f"{orders}</select></label>"
    )
    body = "\n".join(_card(number, card) for number, card in enumerate(cards))
    return document(title, notes, legends(classes, scored), body, controls=controls, script=SORTING)


def legends(classes: Mapping[str, RGB], tasks: Sequence[str]) -> str:
    """Return colors of classes, and of the errors of some tasks."""
    groups = {"classes": classes} if classes else {}
    groups |= {f"{task} errors": ERRORS[task] for task in tasks}
    if not groups:
        return ""
    parts = "".join(
        f'<div class="legend"><h2>{name}</h2><ul>{_swatches(colors)}</ul></div>'
        for name, colors in groups.items()
    )
    return f"<details open><summary>Colors</summary>{parts}</details>"


def _swatches(colors: Mapping[str, RGB]) -> str:
    return "".join(
        f'<li><i style="background:rgb{tuple(color)}"></i>{html.escape(name)}</li>'
        for name, color in colors.items()
    )


def _card(number: int, card: Card) -> str:
    name = html.escape(card.name, quote=True)
    data = "".join(
        f' data-{task}="{score:.4f}"'
        for task, score in card.scores.items()
        if not math.isnan(score)
    )
    rows = "".join(_row(card, task, file) for task, file in card.files.items())
    return (
        f'<article data-number="{number}" data-name="{name}"{data}><h3>{name}</h3>{rows}</article>'
    )


def _row(card: Card, task: str, file: str) -> str:
    address = html.escape(quote(file), quote=True)
    return (
        f"<figure>{caption(task, score_text(task, card.scores))}"
        f'<a href="{address}"><img loading="lazy" src="{address}"'
        f' alt="{html.escape(f"{card.name}, {task}", quote=True)}"></a></figure>'
    )


if __name__ == "__main__":
    sys.exit(main())
