"""How much a model aliases: ``python -m freqfusion.tools.aliasing --config-file X ...``.

For each step of the backbone from stride 4 on that makes a map smaller, the share of the map's
power above the Nyquist frequency of the step: as the map comes, resampled by the model's Spatial
Frequency Modulation, and resampled by the same attention at wrong places (the control). Also how
far the attention follows the edges of the labels, where a data set has labels. Models without
modulation are measured at the same places. Writes ``aliasing.json`` and figures.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from freqfusion.analysis import Spectrum, spectra_figure
from freqfusion.analysis.aliasing import MeasureOptions, Version
from freqfusion.analysis.running import RunningMean
from freqfusion.analysis.sfm_figures import attention_figure, lattice_figure
from freqfusion.drawing import Picture
from freqfusion.layers.sampling import ResampleMode
from freqfusion.layers.sfm.spectrum import SpectrumWindow
from freqfusion.predictor import Predictor, check_weights, read_config
from freqfusion.tools._aliasing import QUANTITIES, AliasingMeter, RecordedPass, StageResult
from freqfusion.tools._arguments import (
    add_image_options,
    model_parser,
    number_from,
    text_table,
    write_json,
)
from freqfusion.tools._images import ImageSource, from_dataset, from_files

logger = logging.getLogger(__name__)

_HEADS = {
    "plain": "plain",
    "modulated": "modulated",
    "control": "control",
    "modulated_over_plain": "mod / plain",
    "modulated_over_control": "mod / control",
    "attention_edge_correlation": "attention-edges",
}
_DPI = 130
_LABELS: dict[Version, str] = {
    "plain": "plain",
    "modulated": "modulated",
    "control": "control: same operator, unrelated places",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        if options.output.exists() and not options.output.is_dir():
            raise ValueError(f"--output {options.output} is a file; name a folder")
        meter, files = run(options)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        print(f"aliasing: {error}", file=sys.stderr)
        return 2
    notes = aliasing_notes(meter, equivalent=options.equivalent_sampling_rate)
    print(table(meter), *(textwrap.fill(note, 100) for note in notes), sep="\n")
    plural = "" if meter.images == 1 else "s"
    print(f"{meter.images} image{plural}; wrote {len(files)} files to {options.output}")
    return 0


def run(options: argparse.Namespace) -> tuple[AliasingMeter, list[Path]]:
    """Measure everything; the numbers, and the files that were written."""
    from freqfusion.tools._aliasing import Reader, find_downsampling

    cfg = read_config(
        options.config_file, options.weights, options.opts, unsafe=options.allow_unsafe_config
    )
    check_weights(cfg.MODEL.WEIGHTS)
    sources = _sources(options)
    predictor = Predictor(cfg)
    places = find_downsampling(predictor.model, cfg.MODEL.SFM.POINTS)
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
    files = _measure_images(meter, read, sources, options)
    if not meter.images:
        raise ValueError(f"none of the {len(sources)} images could be used, see above")
    files += [options.output / "spectra.png", options.output / "aliasing.json"]
    stage_spectra(meter).savefig(files[-2], dpi=_DPI)
    write_json(files[-1], summary(meter, _settings(options)))
    return meter, files


def _measure_images(
    meter: AliasingMeter, read: Any, sources: Sequence[ImageSource], options: argparse.Namespace
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
            for kind, figure in image_figures(item.picture(), seen, covered).items():
                files.append(stem.with_name(f"{stem.name}_{kind}.png"))
                figure.savefig(files[-1], dpi=_DPI)
    return files


def _sources(options: argparse.Namespace) -> list[ImageSource]:
    if options.dataset:
        return from_dataset(options.dataset, options.limit)[0]
    return from_files(options.input, options.limit)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the measurement, as JSON has them."""
    names = (
        "config_file", "weights", "dataset", "input", "limit", "interpolation", "keep_dc", "window",
        "equivalent_sampling_rate", "opts",
    )  # fmt: skip
    return {name: getattr(options, name) for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = model_parser(
        "aliasing", "Measure how much the downsampling steps of a model alias, and draw it."
    )
    add = parser.add_argument
    add_image_options(parser)
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
    return parser


def aliasing_rows(meter: AliasingMeter) -> list[list[str]]:
    """Return a head, and a row for each stage: mean and standard deviation over the images."""
    shown = [name for name in QUANTITIES if _has(meter, name)]
    rows = [["stage", "size", *(_HEADS[name] for name in shown)]]
    for stage in meter.stages.values():
        cells = [_cell(stage.values[name]) for name in shown]
        rows.append([stage.place.title, _sizes(stage), *cells])
    return rows


def table(meter: AliasingMeter) -> str:
    """Return the rows as text, one line for each."""
    lines = text_table(aliasing_rows(meter), words=2)
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def aliasing_notes(meter: AliasingMeter, *, equivalent: bool) -> list[str]:
    """Return what the numbers of the table mean, in sentences."""
    options = meter.options
    limit = "half of the equivalent sampling rate" if equivalent else "1 / (2 stride)"
    mean = "each channel's mean left out" if options.remove_dc else "with each channel's mean"
    spread = " (mean ± standard deviation over the images)" if meter.images > 1 else ""
    lines = [
        f"Share of the power in frequencies above {limit} in the map that enters the downsampling,"
        f" {mean}{spread}."
    ]
    if meter.places.modulated is None:
        return [*lines, "The model does not modulate its maps: there is nothing else to compare."]
    lines.append(
        f"control: resampled by the same attention at wrong places (mean of {options.rolls} rolls)."
    )
    if options.interpolation == "bilinear":
        lines.append(
            "Bilinear interpolation is itself a low-pass filter and lowers the ratio wherever"
            " samples move: compare with the control, not with plain."
        )
    else:
        lines.append(
            "Resampled bicubically, since bilinear interpolation (--interpolation bilinear, as the"
            " model resamples) is itself a low-pass filter; what it filters too, the control shows."
        )
    if _has(meter, "attention_edge_correlation"):
        lines.append(
            "attention-edges: Pearson correlation of the attention with the edges of the labels."
        )
    if meter.is_still:
        lines.append(
            "The attention is even and moves no sample: it is untrained, or"
            " MODEL.SFM.STRENGTH is 0."
        )
    return lines


def summary(meter: AliasingMeter, settings: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers, for ``aliasing.json``; None for what there is not."""
    stages = [_stage_summary(stage) for stage in meter.stages.values()]
    return {"settings": settings, "images": meter.images, "stages": stages}


def _stage_summary(stage: StageResult) -> dict[str, Any]:
    point = stage.place.point
    values = {name: _numbers(mean) for name, mean in stage.values.items()}
    power = {version: mean.mean.tolist() for version, mean in stage.spectra.items()}
    return {
        "feature": point.feature,
        "becomes": stage.place.becomes,
        "module": point.path,
        "is_modulated": "modulated" in stage.spectra,
        "stride": point.geometry.stride,
        "sizes": sorted(stage.sizes),
        "f_nyquist": stage.f_nyquist,
        "largest_displacement": stage.furthest if "modulated" in stage.spectra else None,
        **values,
        "spectrum": {"frequencies": stage.frequencies.tolist(), **power},
    }


def _numbers(mean: RunningMean) -> dict[str, Any] | None:
    if not mean.count:
        return None
    return {
        "mean": mean.mean.item(),
        "deviation": mean.deviation.item(),
        "images": int(mean.count),
    }


def _has(meter: AliasingMeter, name: str) -> bool:
    return any(bool(stage.values[name].count) for stage in meter.stages.values())


def _cell(mean: RunningMean) -> str:
    if not mean.count:
        return "-"
    spread = mean.deviation.item()
    return f"{mean.mean.item():.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


def _sizes(stage: StageResult) -> str:
    ordered = sorted(stage.sizes, key=lambda size: (size[0] * size[1], size))
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    return " to ".join(f"{height}x{width}" for height, width in ends)


def image_figures(picture: Picture, seen: RecordedPass, covered: tuple[int, int]) -> dict[str, Any]:
    """Return figures of an image's ``attention`` and ``lattice``; none without modulation."""
    if not seen.own:
        return {}
    attention = [(name, seen.stacks[name], own[1].logits) for name, own in seen.own.items()]
    lattices = [(name, seen.stacks[name], own[0]) for name, own in seen.own.items()]
    return {
        "attention": attention_figure(picture, attention, covered=covered),
        "lattice": lattice_figure(picture, lattices, covered=covered),
    }


def stage_spectra(meter: AliasingMeter) -> Any:
    """Draw the mean spectra of all stages, with the highest frequency that each step keeps."""
    panels, limits = {}, {}
    for stage in meter.stages.values():
        shares = [f"{stage.values[version].mean.item():.1%}" for version in stage.spectra][:2]
        title = f"{stage.place.title}: {' → '.join(shares)} folded"
        limits[title] = stage.f_nyquist
        panels[title] = {
            _LABELS[version]: Spectrum(stage.frequencies, mean.mean)
            for version, mean in stage.spectra.items()
        }
    return spectra_figure(panels, limits=limits)


if __name__ == "__main__":
    sys.exit(main())
