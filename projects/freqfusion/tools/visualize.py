"""Look at what a model predicts: ``python -m freqfusion.tools.visualize --config-file X ...``.

Draws images of a registered data set, or any image files: for each task that the model has, the
image, the truth (where a data set has it), the prediction and its errors, side by side. Writes PNG
files and ``index.html``, a page that shows them all, sorted and searched. With ``--truth-only`` the
truth of a data set is drawn, and no model is needed.
"""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from freqfusion.drawing import RGB
from freqfusion.files import add_unsafe_config
from freqfusion.tools._arguments import number_from, unit_score
from freqfusion.tools._model import check_weights, metadata_of, read_config
from freqfusion.tools._visualize.page import Card, render_page
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.scores import MAIN_SCORE
from freqfusion.tools._visualize.sources import Source, from_dataset, from_files
from freqfusion.tools._visualize.strips import Strips, draw_source

logger = logging.getLogger(__name__)

TASKS = tuple(MAIN_SCORE)


@dataclass
class Report:
    """What has been drawn, and what could not be."""

    cards: list[Card] = field(default_factory=list)
    classes: dict[str, RGB] = field(default_factory=dict)
    skipped: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the images; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        page, report = run(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"visualize: {error}", file=sys.stderr)
        return 2
    print(_summary(page, report))
    return 0


def run(options: argparse.Namespace) -> tuple[Path, Report]:
    """Draw everything; the page, and what is on it."""
    from tqdm import tqdm

    cfg = _config(options)
    if options.dataset:
        sources, metadata = from_dataset(options.dataset, options.limit)
    else:
        sources, metadata = from_files(options.input, options.limit), metadata_of(cfg)
    predict = None if options.truth_only else Predictor(cfg)
    pictures = options.output / "images"
    pictures.mkdir(parents=True, exist_ok=True)
    report = Report()
    bar = tqdm(sources, desc="drawing", unit="image", disable=None)
    for number, source in enumerate(bar):
        try:
            strips = draw_source(
                source, predict, metadata, options.tasks, score_threshold=options.score_threshold
            )
        except ValueError as error:
            logger.warning("skipped: %s", error)
            report.skipped += 1
            continue
        _keep(strips, source, f"{number:05d}_{source.path.stem}", options.output, report)
    if not report.cards:
        raise ValueError(_nothing(options, report, len(sources)))
    page = options.output / "index.html"
    text = render_page(_title(options), _notes(options, report), report.cards, report.classes)
    page.write_text(text, encoding="utf-8")
    return page, report


def _keep(strips: Strips, source: Source, stem: str, output: Path, report: Report) -> None:
    """Write the pictures of one image and put it on the page."""
    from PIL import Image

    files = {}
    for task, picture in strips.pictures.items():
        files[task] = f"images/{stem}_{task}.png"
        Image.fromarray(picture).save(output / files[task])
    if files:
        report.cards.append(Card(source.path.name, files, strips.scores))
        report.classes |= strips.classes


def _config(options: argparse.Namespace) -> Any:
    """The configuration; the weights are looked for before any data."""
    cfg = read_config(
        options.config_file or "",
        options.weights or None,
        options.opts,
        unsafe=options.allow_unsafe_config,
    )
    if not options.truth_only:
        check_weights(cfg.MODEL.WEIGHTS)
    return cfg


def _check(options: argparse.Namespace) -> None:
    if options.truth_only and not options.dataset:
        raise ValueError("--truth-only needs a data set, which has the truth: give --dataset NAME")
    if not options.truth_only and not options.config_file:
        raise ValueError(
            "a model needs --config-file; to draw a data set without a model, add --truth-only"
        )
    if options.output.exists() and not options.output.is_dir():
        raise ValueError(f"--output {options.output} is a file; name a folder")


def _nothing(options: argparse.Namespace, report: Report, images: int) -> str:
    if report.skipped:
        return f"nothing was drawn: none of the {images} images could be used, see above"
    side = "data set" if options.truth_only else "model"
    return f"nothing to draw: the {side} has nothing for the task {' or '.join(options.tasks)}"


def _title(options: argparse.Namespace) -> str:
    what = options.dataset or ", ".join(options.input)
    return (
        f"Truth of {what}" if options.truth_only else f"{Path(options.config_file).stem} on {what}"
    )


def _notes(options: argparse.Namespace, report: Report) -> list[str]:
    notes = [f"{len(report.cards)} images"]
    if report.skipped:
        notes.append(f"{report.skipped} skipped")
    if not options.truth_only:
        notes.append(f"instances with a score of {options.score_threshold:g} or more")
    for task, score in MAIN_SCORE.items():
        values = [card.scores[task][score] for card in report.cards if task in card.scores]
        values = [value for value in values if not math.isnan(value)]
        if values:
            notes.append(f"{score} of an image: {sum(values) / len(values):.1f} on average")
    return notes


def _summary(page: Path, report: Report) -> str:
    pictures = sum(len(card.files) for card in report.cards)
    skipped = f"; {report.skipped} skipped, see above" if report.skipped else ""
    return f"drew {len(report.cards)} images ({pictures} pictures){skipped}\npage: {page}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.visualize",
        description="Draw predictions beside the truth, and a page to browse them.",
    )
    add = parser.add_argument
    add("--config-file", metavar="FILE", help="the model's configuration (YAML)")
    add_unsafe_config(parser)
    add("--weights", metavar="FILE", help="checkpoint; not given: MODEL.WEIGHTS")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--dataset", metavar="NAME", help="a registered data set")
    images.add_argument(
        "--input", nargs="+", metavar="PATH", help="image files, folders or patterns like '*.jpg'"
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--limit", type=number_from(1), metavar="N", help="draw the first N images only")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS, help="not given: all of the model")
    add("--score-threshold", type=unit_score, default=0.5, metavar="S", help="of instances; 0.5")
    add("--truth-only", action="store_true", help="draw the data set's truth; needs no model")
    add("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    return parser


if __name__ == "__main__":
    sys.exit(main())
