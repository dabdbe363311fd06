"""One page about one trained model: ``python -m freqfusion.tools.report --config-file X ...``.

Scores and curves of the run, predictions, feature similarity, spectra before and after fusion,
responses of the predicted kernels, offsets, aliasing, and what the model costs. The page is a
single HTML file with all pictures inside, which needs no network. What does not apply to the model
is left out, and the page says why.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from freqfusion.files import add_unsafe_config, write_whole
from freqfusion.tools._arguments import number_from, one_of
from freqfusion.tools._model import check_weights, load_model
from freqfusion.tools._report.context import Context
from freqfusion.tools._report.page import render_report
from freqfusion.tools._report.section import Section
from freqfusion.tools._report.sections import SECTIONS
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.sources import Source, from_dataset, read_image

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
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


def make(context: Context, names: Sequence[str]) -> tuple[dict[str, Section], dict[str, str]]:
    """The named sections, and the reasons of those that there cannot be."""
    from tqdm import tqdm

    sections, left_out = {}, {}
    for name in tqdm(names, desc="report", unit="section", disable=None):
        try:
            sections[name] = SECTIONS[name](context)
        except (ValueError, OSError, RuntimeError) as error:
            left_out[name] = str(error)
    return sections, left_out


def _context(options: argparse.Namespace) -> Context:
    cfg, model = load_model(
        options.config_file, options.weights, options.opts, unsafe=options.allow_unsafe_config
    )
    context = Context(
        options.config_file,
        cfg,
        Predictor(cfg, model),
        run=options.run,
        examples=options.examples,
        runs=options.runs,
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


def _readable(sources: Sequence[Source]) -> list[Source]:
    """Without the images that cannot be read; ValueError where none can."""
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


def _notes(context: Context) -> list[str]:
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
    """ValueError, before the model is built, for what cannot work."""
    if options.output.is_dir():
        raise ValueError(f"--output {options.output} is a folder; name a file such as report.html")
    if options.run is not None and not options.run.is_dir():
        raise ValueError(f"--run {options.run} is no folder; name the output folder of a training")
    if options.weights is not None:
        check_weights(options.weights)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.report",
        description="Write one offline HTML page about one trained model.",
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the model's configuration (YAML)")
    add_unsafe_config(parser)
    add("--weights", metavar="FILE", help="checkpoint; not given: MODEL.WEIGHTS")
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
    add("--runs", type=number_from(0), default=5, metavar="N", help="to time; 5, 0 takes no time")
    add(
        "--sections",
        nargs="+",
        type=one_of(SECTIONS),
        default=list(SECTIONS),
        metavar="NAME",
        help=f"some of {', '.join(SECTIONS)}; not given: all",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    return parser


if __name__ == "__main__":
    sys.exit(main())
