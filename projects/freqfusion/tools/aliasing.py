"""How much a model aliases: ``python -m freqfusion.tools.aliasing --config-file X ...``.

For each step of the backbone from stride 4 on that makes a map smaller, the share of the map's
power above the Nyquist frequency of the step: as the map comes, resampled by the model's Spatial
Frequency Modulation, and resampled by the same attention at wrong places (the control). Also how
far the attention follows the edges of the labels, where a data set has labels. Models without
modulation are measured at the same places. Writes ``aliasing.json`` and figures.
"""

import argparse
import json
import logging
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from freqfusion.analysis.aliasing import MeasureOptions
from freqfusion.files import add_unsafe_config
from freqfusion.layers.sampling import ResampleMode
from freqfusion.layers.sfm.spectrum import SpectrumWindow
from freqfusion.tools._aliasing.figures import write_image_figures, write_spectra
from freqfusion.tools._aliasing.measuring import AliasingMeter
from freqfusion.tools._aliasing.report import footer, summary, table
from freqfusion.tools._arguments import number_from
from freqfusion.tools._model import check_weights, read_config
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.sources import Source, from_dataset, from_files

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        if options.output.exists() and not options.output.is_dir():
            raise ValueError(f"--output {options.output} is a file; name a folder")
        meter, files = run(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"aliasing: {error}", file=sys.stderr)
        return 2
    notes = footer(meter, equivalent=options.equivalent_sampling_rate)
    print(table(meter), *(textwrap.fill(note, 100) for note in notes), sep="\n")
    plural = "" if meter.images == 1 else "s"
    print(f"{meter.images} image{plural}; wrote {len(files)} files to {options.output}")
    return 0


def run(options: argparse.Namespace) -> tuple[AliasingMeter, list[Path]]:
    """Measure everything; the numbers, and the files that were written."""
    from freqfusion.tools._aliasing.inputs import Reader
    from freqfusion.tools._aliasing.places import find_places

    cfg = read_config(
        options.config_file, options.weights, options.opts, unsafe=options.allow_unsafe_config
    )
    check_weights(cfg.MODEL.WEIGHTS)
    sources = _sources(options)
    predictor = Predictor(cfg)
    places = find_places(predictor.model, cfg.MODEL.SFM.POINTS)
    read = Reader(cfg, predictor, with_truth=places.modulated is not None)
    meter = AliasingMeter(
        predictor.model,
        places,
        options=MeasureOptions(
            interpolation=options.interpolation,
            remove_dc=not options.keep_dc,
            window=options.window,
        ),
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        equivalent=options.equivalent_sampling_rate,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    files = _measure(meter, read, sources, options)
    if not meter.images:
        raise ValueError(f"none of the {len(sources)} images could be used, see above")
    files.append(write_spectra(meter, options.output / "spectra.png"))
    files.append(options.output / "aliasing.json")
    text = json.dumps(summary(meter, _settings(options)), indent=2, allow_nan=False)
    files[-1].write_text(text + "\n", encoding="utf-8")
    return meter, files


def _measure(
    meter: AliasingMeter, read: Any, sources: Sequence[Source], options: argparse.Namespace
) -> list[Path]:
    """Measure and draw the images; the files of the figures."""
    from tqdm import tqdm

    files: list[Path] = []
    for source in tqdm(sources, desc="measuring", unit="image", disable=None):
        try:
            item = read(source)
        except ValueError as error:
            logger.warning("skipped: %s", error)
            continue
        seen, covered = meter(item)
        if meter.images <= options.figures:
            stem = options.output / f"{meter.images:03d}_{source.path.stem}"
            files += write_image_figures(item.picture(), seen, covered, stem)
    return files


def _sources(options: argparse.Namespace) -> list[Source]:
    if options.dataset:
        return from_dataset(options.dataset, options.limit)[0]
    return from_files(options.input, options.limit)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, as JSON has it."""
    names = (
        "config_file", "weights", "dataset", "input", "limit", "interpolation", "keep_dc", "window",
        "equivalent_sampling_rate", "opts",
    )  # fmt: skip
    return {name: getattr(options, name) for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.aliasing",
        description="Measure how much the downsampling steps of a model alias, and draw it.",
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="the model's configuration (YAML)")
    add_unsafe_config(parser)
    add("--weights", metavar="FILE", help="checkpoint; not given: MODEL.WEIGHTS")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--dataset", metavar="NAME", help="a registered data set")
    images.add_argument(
        "--input", nargs="+", metavar="PATH", help="image files, folders or patterns like '*.jpg'"
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add("--limit", type=number_from(1), metavar="N", help="measure the first N images only")
    add("--figures", type=number_from(0), default=3, metavar="N", help="draw the first N images; 3")
    add(
        "--interpolation",
        choices=get_args(ResampleMode),
        default="bicubic",
        help="of the resampled maps; bilinear, as the model has it, filters by itself",
    )
    add("--keep-dc", action="store_true", help="count the mean of each channel as power too")
    add("--window", choices=get_args(SpectrumWindow), help="fade maps out towards their border")
    add(
        "--equivalent-sampling-rate",
        action="store_true",
        help="raise the limit where a step makes more channels",
    )
    add("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    return parser


if __name__ == "__main__":
    sys.exit(main())
