"""One page about one trained model: ``python -m freqfusion.tools.report --config-file X ...``.

Scores and curves of the run, predictions, feature similarity, spectra before and after fusion,
responses of the predicted kernels, offsets, aliasing, and what the model costs. The page is a
single HTML file with all pictures inside, which needs no network. What does not apply to the model
is left out, and the page says why.
"""

from __future__ import annotations

import argparse
import html
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from freqfusion.data.workers import progress
from freqfusion.drawing import RGB
from freqfusion.files import write_whole
from freqfusion.predictor import Predictor, check_weights, load_model
from freqfusion.tools._aliasing import modulation_figure
from freqfusion.tools._arguments import model_parser, number_from, one_of, parse
from freqfusion.tools._images import ImageSource, from_dataset, read_image
from freqfusion.tools._layers import default_layers
from freqfusion.tools._page import (
    EmbeddedImage,
    ReportSection,
    document,
    from_figure,
    from_picture,
    image_html,
    paragraphs,
    table,
)
from freqfusion.tools._report_fusion import ReportContext, kernels, offsets, spectra
from freqfusion.tools.aliasing import AliasingMeter, aliasing_notes, aliasing_rows, stage_spectra
from freqfusion.tools.analyze import analyze, cost_notes, cost_rows, cost_summary
from freqfusion.tools.feature_similarity import Measurement, read_scenes, scene_figure
from freqfusion.tools.plot_metrics import FILE_NAME, build_figure, choose, read_runs
from freqfusion.tools.visualize import draw_source, legends, score_text

logger = logging.getLogger(__name__)

_RESULTS = "results.json"
_SMOOTH = 20
_THRESHOLD = 0.5
_DEPTH = 2
_SIZE = (512, 512)
_RUNS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    try:
        _check(options)
        context = _context(options)
        sections, left_out = make(context, options.sections)
        if not sections:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise ValueError(f"there is nothing to report. {reasons}")
        title = f"{Path(options.config_file).stem}"
        write_whole(options.output, render_report(title, _notes(context), sections, left_out))
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"{len(sections)} sections: {', '.join(sections)}")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")
    print(f"page: {options.output}")
    return 0


def make(
    context: ReportContext, names: Sequence[str]
) -> tuple[dict[str, ReportSection], dict[str, str]]:
    """Return the named sections, and the reasons of those that there cannot be."""
    sections, left_out = {}, {}
    for name in progress(names, "report", "section"):
        try:
            sections[name] = SECTIONS[name](context)
        except (ValueError, OSError, RuntimeError) as error:
            left_out[name] = str(error)
    return sections, left_out


def _context(options: argparse.Namespace) -> ReportContext:
    cfg, model = load_model(
        options.config_file, options.weights, options.opts, unsafe=options.allow_unsafe_config
    )
    context = ReportContext(
        options.config_file,
        cfg,
        Predictor(cfg, model=model),
        run=options.run,
        examples=options.examples,
    )
    wanted = options.dataset or next(iter(cfg.DATASETS.TEST), "")
    if not wanted:
        context.without_images = "the configuration names no data set in DATASETS.TEST"
        return context
    context.dataset = wanted
    try:
        sources, context.metadata = from_dataset(wanted, options.limit)
        context.sources = _readable(sources)
    except ValueError as error:
        # A data set that was asked for must be there; that of the configuration may be elsewhere.
        if options.dataset:
            raise
        context.without_images = str(error)
        logger.warning("no images: %s", error)
    return context


def _readable(sources: Sequence[ImageSource]) -> list[ImageSource]:
    """Leave out the images that cannot be read; ValueError where none can."""
    found = []
    for source in sources:
        try:
            read_image(source.path)
            found.append(source)
        except ValueError as error:
            logger.warning("skipped: %s", error)
    if not found:
        raise ValueError(f"none of the {len(sources)} images can be read, see above")
    return found


def _notes(context: ReportContext) -> list[str]:
    from freqfusion import __version__

    notes = [
        f"configuration {context.config_file}",
        f"weights {context.cfg.MODEL.WEIGHTS}",
        f"freqfusion {__version__}",
        time.strftime("%Y-%m-%d"),
    ]
    if context.sources:
        count = len(context.sources)
        notes.insert(2, f"{count} image{'s' * (count > 1)} of {context.dataset}")
    return notes


def _check(options: argparse.Namespace) -> None:
    """Raise ValueError, before the model is built, for what cannot work."""
    if options.output.is_dir():
        raise ValueError(f"--output {options.output} is a folder; name a file such as report.html")
    if options.run is not None and not options.run.is_dir():
        raise ValueError(f"--run {options.run} is no folder; name the output folder of a training")
    if options.weights is not None:
        check_weights(options.weights)


def _parser() -> argparse.ArgumentParser:
    parser = model_parser("report", "Write one offline HTML page about one trained model.")
    add = parser.add_argument
    add("--run", type=Path, metavar="DIR", help="output folder of its training")
    add("--dataset", metavar="NAME", help="registered data set; not given: the first to test on")
    add("--output", type=Path, required=True, metavar="FILE", help="the page, *.html")
    add(
        "--limit",
        type=number_from(1),
        default=32,
        metavar="N",
        help="measure on the first N images; 32",
    )
    add("--examples", type=number_from(0), default=3, metavar="N", help="draw the first N; 3")
    add(
        "--sections",
        nargs="+",
        type=one_of(SECTIONS),
        default=list(SECTIONS),
        metavar="NAME",
        help=f"some of {', '.join(SECTIONS)}; not given: all",
    )
    return parser


def render_report(
    title: str,
    notes: Sequence[str],
    sections: Mapping[str, ReportSection],
    left_out: Mapping[str, str],
) -> str:
    """Return the whole page.

    Args:
        title: Of the page.
        notes: Facts for the head.
        sections: By their ids, in order.
        left_out: Why, by the name of each section that there is not.
    """
    shown = dict(sections)
    if left_out:
        lines = (f"<li><b>{html.escape(k)}</b>: {html.escape(v)}</li>" for k, v in left_out.items())
        shown["left-out"] = ReportSection("Left out", f"<ul>{''.join(lines)}</ul>")
    links = "".join(
        f'<li><a href="#{name}">{html.escape(section.title)}</a></li>'
        for name, section in shown.items()
    )
    contents = f'<nav aria-label="contents"><ol>{links}</ol></nav>'
    body = "\n".join(_article(name, section) for name, section in shown.items())
    return document(title, notes, contents, body)


def _article(name: str, section: ReportSection) -> str:
    pictures = "\n".join(
        image_html(image, f"{name}-{number}") for number, image in enumerate(section.images, 1)
    )
    return (
        f'<article id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{html.escape(section.title)}</h2>{section.body}{pictures}</article>'
    )


def results(context: ReportContext) -> ReportSection:
    """Show the scores of ``results.json``: a table for each task, and one of classes."""
    run = _run(context)
    path = run / _RESULTS
    if not path.is_file():
        raise ValueError(f"{run} has no {_RESULTS}; train_net.py writes it after an evaluation")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        iteration = content.get("iteration")
        tables = [
            part
            for dataset, tasks in content["datasets"].items()
            for part in (*_mean_tables(dataset, tasks), _class_table(dataset, tasks))
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as the scores by data set and task that train_net.py writes:"
            f" {error}"
        ) from error
    said = f"After {iteration} iterations, in percent." if iteration else "In percent."
    return ReportSection("Results", paragraphs(said) + "".join(tables))


def curves(context: ReportContext) -> ReportSection:
    """Draw losses, learning rate and scores over the training."""
    run = _run(context)
    if not (run / FILE_NAME).is_file():
        raise ValueError(f"{run} has no {FILE_NAME}, which training writes")
    runs = read_runs([run])
    figure = build_figure(runs, choose(runs[0].series, ()), _SMOOTH)
    return ReportSection(
        "Training", images=[from_figure(figure, "losses, learning rate and scores")]
    )


def _run(context: ReportContext) -> Path:
    if context.run is None:
        raise ValueError("no run is given; name the output folder of the training with --run")
    return context.run


Tasks = Mapping[str, Mapping[str, float | None]]
# Columns of the table of classes: what tells boxes from masks, and whose scores come first.
_KINDS = {"panoptic_seg": "", "sem_seg": "", "bbox": "box ", "segm": "mask "}


def _is_of_a_class(name: str) -> bool:
    """Return whether a score is that of a class, such as ``IoU-sky``; ``mIoU-thin`` is a mean."""
    return "-" in name and not name.startswith("m")


def _mean_tables(dataset: str, tasks: Tasks) -> Iterator[str]:
    """Yield a table of mean scores for each task."""
    for task, scores in tasks.items():
        means = {k: v for k, v in scores.items() if v is not None and not _is_of_a_class(k)}
        if means:
            rows = [["", *means], ["all", *map(_number, means.values())]]
            yield table(rows, title=f"{dataset}, {task}")


def _class_table(dataset: str, tasks: Tasks) -> str:
    """Return the scores of classes of all tasks side by side; "" where there are none.

    A class without any score is left out.
    """
    columns: dict[str, dict[str, float | None]] = {}
    for task in sorted(tasks, key=[*_KINDS, *tasks].index):
        for name, value in tasks[task].items():
            if _is_of_a_class(name):
                score, _, of_class = name.partition("-")
                columns.setdefault(_KINDS.get(task, f"{task} ") + score, {})[of_class] = value
    names = dict.fromkeys(
        name for column in columns.values() for name, value in column.items() if value is not None
    )
    if not names:
        return ""
    rows = [[name, *(_number(column.get(name)) for column in columns.values())] for name in names]
    return table([["class", *columns], *rows], title=f"{dataset}, by class")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def predictions(context: ReportContext) -> ReportSection:
    """Draw the first images with ground truth, prediction and errors, for each task."""
    images: list[EmbeddedImage] = []
    classes: dict[str, RGB] = {}
    tasks: dict[str, float] = {}
    for source in context.images()[: context.examples]:
        strips = draw_source(
            source, context.predictor, context.metadata, score_threshold=_THRESHOLD
        )
        classes |= strips.classes
        tasks |= strips.scores
        for task, picture in strips.pictures.items():
            title = f"{source.path.name}, {task}"
            images.append(from_picture(picture, title, score_text(task, strips.scores)))
    if not images:
        raise ValueError("the model gives nothing that can be drawn")
    said = f"The first {min(context.examples, len(context.sources))} images of {context.dataset};"
    said += f" instances with a score of {_THRESHOLD:g} or more."
    return ReportSection("Predictions", paragraphs(said) + legends(classes, list(tasks)), images)


def similarity(context: ReportContext) -> ReportSection:
    """Show how well features separate classes before and after the finest fusion."""
    layers = default_layers(context.model)
    if not layers:
        raise ValueError("the model has neither a fusion nor outputs of a backbone to compare")
    measurement, images = Measurement(context.predictor, layers), []
    for number, scene in enumerate(read_scenes(context.images(), context.metadata)):
        maps = measurement.add(scene)
        if number < context.examples:
            images.append(from_figure(scene_figure(scene, maps), scene.name))
    body = paragraphs(
        "IntraSim: cosine of pixels to the center of their class; InterSim: of the centers of"
        " different classes; margin: how much nearer a pixel is to its own center than to the"
        " nearest other one. A band of 3 are the pixels along class boundaries.",
    )
    body += table(measurement.rows(), words=2, title="feature similarity")
    names = ", ".join(f"{layer.label} is {layer}" for layer in layers)
    body += paragraphs(f"{len(context.sources)} images of {context.dataset}; {names}.")
    return ReportSection("Feature similarity", body, images)


def aliasing(context: ReportContext) -> ReportSection:
    """Show the shares of the power above the Nyquist frequency, by stage."""
    meter, images = AliasingMeter(context.cfg, context.predictor), []
    for source in context.images():
        picture, seen = meter(source)
        if seen.own and meter.images <= context.examples:
            for kind in ("attention", "lattice"):
                figure = modulation_figure(kind, picture, seen)
                images.append(from_figure(figure, f"{kind}, {source.path.name}"))
    images.insert(0, from_figure(stage_spectra(meter), "mean spectra, and the limit of the step"))
    body = table(aliasing_rows(meter), words=2, title="share of the power that is folded")
    return ReportSection("Aliasing", body + paragraphs(*aliasing_notes(meter)), images)


def costs(context: ReportContext) -> ReportSection:
    """Show parameters, FLOPs, memory and time, at the size of the first image."""
    from freqfusion.data.randomness import separate_randomness
    from freqfusion.engine.hooks import unchanged

    size = _SIZE
    if context.sources:
        planes = context.predictor.inputs(read_image(context.sources[0].path))["image"]
        size = (int(planes.shape[-2]), int(planes.shape[-1]))
    weights = {"config": context.config_file, "weights": context.cfg.MODEL.WEIGHTS}
    # A training step of the measurement changes running statistics.
    with separate_randomness(0), unchanged(context.model):
        result = weights | analyze(context.cfg, context.model, size, _RUNS)
    body = paragraphs(*cost_summary(result)[1:])
    body += table(cost_rows(result, _DEPTH), title=f"parts down to level {_DEPTH}")
    notes = paragraphs(*cost_notes(result))
    notes = f"<details><summary>What is counted</summary>{notes}</details>"
    return ReportSection("Parameters, FLOPs, memory and time", body + notes)


# A section that does not apply to the model, or cannot be made, raises ValueError with the reason.
SECTIONS: Mapping[str, Callable[[ReportContext], ReportSection]] = {
    "results": results,
    "training": curves,
    "predictions": predictions,
    "similarity": similarity,
    "spectra": spectra,
    "kernels": kernels,
    "offsets": offsets,
    "aliasing": aliasing,
    "costs": costs,
}


if __name__ == "__main__":
    sys.exit(main())
