"""Draw losses and scores of training runs: ``python -m freqfusion.tools.plot_metrics RUN ...``.

A run is an output folder of ``train_net.py``, or its ``metrics.json``. Several runs share the
panels, one for each metric; the last value of each line stands at its end.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.analysis.figures import SOFT, new_figure, quiet
from freqfusion.tools._arguments import number_from

logger = logging.getLogger(__name__)
FILE_NAME = "metrics.json"
FloatArray = NDArray[np.float64]
# By group, in this order: prefixes of its metrics, and those that a plot without --metrics has.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "training": (("loss_",), (r"total_loss", r"validation_loss", r"loss_[a-z_]*[a-z]", r"lr")),
    "semantic": (
        ("sem_seg/",),
        (r"sem_seg/(mIoU|IoU)", r"sem_seg/mBoundaryIoU", r"sem_seg/(fwIoU|pACC|mACC)"),
    ),
    "instances": (
        ("bbox/", "segm/"),
        (r"bbox/AP", r"bbox/AP(50|75)", r"segm/AP", r"segm/AP(50|75)"),
    ),
    "panoptic": (
        ("panoptic_seg/",),
        (r"panoptic_seg/PQ", r"panoptic_seg/PQ_(th|st)", r"panoptic_seg/(SQ|RQ)"),
    ),
}
# Of the others, those of a data set or a task, but neither of a class nor about the speed.
_SCORE = re.compile(r"[^/]+/[^/-]+")
_INNER = re.compile(r"(fast_rcnn|roi_head|mask_rcnn|rpn|retinanet)/.*|.*time.*|.*eta.*")
_SMOOTHED = re.compile(r"total_loss|validation_loss|loss_.*|(fast_rcnn|roi_head|mask_rcnn|rpn)/.*")
COLUMNS = 4
# Okabe and Ito's colors, which can be told apart with any color vision; dashes when they run out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
FORMATS = (".png", ".svg", ".pdf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the runs; return the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        _check_output(options.output)
        runs = read_runs(options.runs)
        groups = choose((name for run in runs for name in run.series), options.metrics)
        panels = draw_figure(runs, groups, options.output, options.smooth)
    except (ValueError, OSError) as error:
        print(f"plot_metrics: {error}", file=sys.stderr)
        return 2
    print(f"{len(runs)} runs, {panels} metrics\nfigure: {options.output}")
    return 0


def _check_output(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--output {path} must end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.plot_metrics",
        description="Draw losses, learning rate and scores of one or several training runs.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="output folder or metrics.json")
    add("--output", type=Path, required=True, metavar="FILE", help="*.png, *.svg or *.pdf")
    add(
        "--metrics",
        nargs="+",
        default=(),
        metavar="REGEX",
        help="draw what one of these fits; not given: losses, learning rate and mean scores",
    )
    add(
        "--smooth",
        type=number_from(1),
        default=20,
        metavar="N",
        help="average losses over N records, at most a tenth of all; 1 draws them as they are (20)",
    )
    return parser


@dataclass(frozen=True)
class MetricSeries:
    """Values of one metric in the order of the iterations; nan where it was not a number."""

    iterations: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class TrainingRun:
    """One training run: its name, and its metrics by theirs."""

    name: str
    series: dict[str, MetricSeries]


def read_runs(paths: Iterable[Path]) -> list[TrainingRun]:
    """Runs from output folders or their ``metrics.json``, named so that they differ.

    Raises:
        ValueError: if a file is missing or has no line that can be read.
    """
    files = [path / FILE_NAME if path.is_dir() else path for path in paths]
    names = run_names(files)
    return [TrainingRun(name, read_series(file)) for name, file in zip(names, files, strict=True)]


def read_series(file: Path) -> dict[str, MetricSeries]:
    """Return every metric of a file.

    Lines that cannot be read, such as one that a killed run left unfinished, are left out. Where
    the iteration falls back, the run was resumed: what was written from there on is replaced.
    """
    if not file.is_file():
        raise ValueError(
            f"there is no {file}; name an output folder of train_net.py or its {FILE_NAME}"
        )
    records, broken = _records(file.read_text(encoding="utf-8", errors="replace").splitlines())
    if not records:
        raise ValueError(
            f"{file} has no line with metrics; Detectron2 writes JSON lines with an 'iteration'"
        )
    if broken:
        logger.warning("%s: %d lines cannot be read and are left out", file, broken)
    return series_of(records)


def series_of(records: Iterable[dict[str, Any]]) -> dict[str, MetricSeries]:
    """Metrics of records in the order in which they were written."""
    kept: dict[int, dict[str, float]] = {}
    for record in records:
        iteration = int(record["iteration"])
        if kept and iteration <= max(kept):
            kept = {at: values for at, values in kept.items() if at < iteration}
        kept[iteration] = {
            name: float(value)
            for name, value in record.items()
            if name != "iteration" and _is_number(value)
        }
    points: dict[str, list[tuple[int, float]]] = {}
    for at, values in kept.items():
        for name, value in values.items():
            points.setdefault(name, []).append((at, value))
    return {name: MetricSeries(*np.array(of_one, np.float64).T) for name, of_one in points.items()}


def run_names(files: Iterable[Path]) -> list[str]:
    """Return the shortest end of each file's folder that tells it from the others."""
    parts = [file.resolve().parent.parts for file in files]
    if len(set(parts)) < len(parts):
        return [str(file) for file in files]
    names = []
    for own in parts:
        length = 1
        while sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _records(lines: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    records, broken = [], 0
    for line in filter(str.strip, lines):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict) and _is_number(record.get("iteration")):
            records.append(record)
        else:
            broken += 1
    return records, broken


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class MetricGroup:
    """Metrics that are drawn together."""

    name: str
    metrics: tuple[str, ...]


def choose(known: Iterable[str], patterns: Sequence[str]) -> list[MetricGroup]:
    """Groups of metrics: those that one of the patterns fits anywhere, or else the usual ones.

    Raises:
        ValueError: if there are none, or a pattern is no regular expression or fits nothing.
    """
    names = list(dict.fromkeys(known))
    if patterns:
        chosen = [name for name in names if any(found(p, name) for p in patterns)]
        for pattern in patterns:
            if not any(found(pattern, name) for name in names):
                raise ValueError(
                    f"no metric matches {pattern!r}; known are {', '.join(sorted(names))}"
                )
    else:
        chosen = [name for name in names if _is_usual(name)]
    if not chosen:
        raise ValueError(
            "no loss, learning rate or score was found; choose with --metrics from"
            f" {', '.join(sorted(names)) or 'nothing'}"
        )
    return grouped(chosen)


def grouped(names: Sequence[str]) -> list[MetricGroup]:
    """Sort names by group, in the order of ``GROUPS``; others by the part before the slash."""
    by_group: dict[str, list[str]] = {}
    left = sorted(names, key=_natural)
    for title, (prefixes, patterns) in GROUPS.items():
        mine = [name for pattern in patterns for name in left if re.fullmatch(pattern, name)]
        mine += [name for name in left if name.startswith(prefixes)]
        by_group[title] = list(dict.fromkeys(mine))
        left = [name for name in left if name not in mine]
    for name in sorted(left, key=list(names).index):
        prefix = name.partition("/")[0] if "/" in name else "other"
        by_group.setdefault(prefix, []).append(name)
    return [
        MetricGroup(title, tuple(mine if title in GROUPS else sorted(mine, key=_natural)))
        for title, mine in by_group.items()
        if mine
    ]


def is_smoothed(name: str) -> bool:
    """Return whether a metric is noisy by nature: losses are, scores and learning rates are not."""
    return _SMOOTHED.fullmatch(name) is not None


def found(pattern: str, name: str) -> bool:
    """Return whether a regular expression fits some part of a name; ValueError for a broken one."""
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _is_usual(name: str) -> bool:
    for prefixes, patterns in GROUPS.values():
        if any(re.fullmatch(pattern, name) for pattern in patterns):
            return True
        if name.startswith(prefixes):
            return False
    return bool(_SCORE.fullmatch(name) and not _INNER.fullmatch(name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts loss_ce_10 after loss_ce_9."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def draw_figure(
    runs: Sequence[TrainingRun], groups: Sequence[MetricGroup], output: Path, smooth: int
) -> int:
    """Write the figure of ``build_figure``; return the number of panels."""
    import matplotlib as mpl

    # Text stays text in SVG and PDF, and the SVG of the same runs is the same file.
    settings: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "freqfusion"}
    with mpl.rc_context(settings):
        figure = build_figure(runs, groups, smooth)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=150)
    return sum(len(group.metrics) for group in groups)


def build_figure(runs: Sequence[TrainingRun], groups: Sequence[MetricGroup], smooth: int) -> Any:
    """Draw a panel for each metric, with lines for the runs that have it.

    Losses are smoothed over ``smooth`` records, with the records themselves faint behind.
    """
    from matplotlib.lines import Line2D

    columns = min(COLUMNS, max(len(group.metrics) for group in groups))
    rows = [math.ceil(len(group.metrics) / columns) for group in groups]
    figure = new_figure(max(3.3 * columns, 5.0), 2.15 * sum(rows) + 0.32 * len(groups) + 0.6)
    parts = figure.subfigures(len(groups), 1, height_ratios=rows, squeeze=False)[:, 0]
    for part, group, high in zip(parts, groups, rows, strict=True):
        _draw_group(part, group, (high, columns), runs, smooth)
    drawn = [run.series.get(name) for run in runs for group in groups for name in group.metrics]
    last = max([1.0, *(float(series.iterations[-1]) for series in drawn if series is not None)])
    for axis in figure.axes:
        axis.set_xlim(-0.03 * last, 1.03 * last)
    parts[-1].supxlabel("iteration", fontsize=8, color=SOFT)
    if len(runs) > 1:
        figure.legend(
            handles=[
                Line2D([], [], color=color, linestyle=dashes, label=run.name)
                for run, (color, dashes) in zip(runs, map(_style, range(len(runs))), strict=True)
            ],
            loc="outside upper left",
            ncols=min(len(runs), columns),
            frameon=False,
            fontsize=9,
        )
    return figure


def smoothed(values: FloatArray, window: int) -> FloatArray:
    """Return means over ``window`` neighbors, fewer at the ends; nan counts nowhere.

    At most a tenth of the values are averaged, so that the curve of a short run stays as it is.
    """
    half = min(window, len(values) // 10) // 2
    if half < 1:
        return values.copy()
    present = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.where(present, values, 0.0).cumsum()])
    counts = np.concatenate([[0], present.cumsum()])
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    number = counts[last] - counts[first]
    total = sums[last] - sums[first]
    return np.where(present, total / np.maximum(number, 1), np.nan)


def short_number(value: float) -> str:
    """Return three figures or so: 0.0123, 1.25, 63.4, 1234, 2.5e-05."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.2g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if abs(value) < 1 and "." in text else text


def _draw_group(
    part: Any, group: MetricGroup, shape: tuple[int, int], runs: Sequence[TrainingRun], smooth: int
) -> None:
    part.suptitle(group.name, x=0.012, ha="left", fontsize=11, fontweight="bold")
    axes = part.subplots(*shape, squeeze=False).ravel()
    for axis, metric in zip(axes, group.metrics, strict=False):
        _draw_metric(axis, metric, runs, smooth)
    for axis in axes[len(group.metrics) :]:
        axis.set_axis_off()


def _draw_metric(axis: Any, metric: str, runs: Sequence[TrainingRun], smooth: int) -> None:
    ends: list[tuple[float, float, str]] = []
    for number, run in enumerate(runs):
        series = run.series.get(metric)
        if series is None:
            continue
        color, dashes = _style(number)
        curve = smoothed(series.values, smooth) if is_smoothed(metric) else series.values
        if not np.array_equal(curve, series.values, equal_nan=True):
            axis.plot(series.iterations, series.values, color=color, alpha=0.22, linewidth=0.8)
        few = len(curve) <= 12
        axis.plot(
            series.iterations,
            curve,
            linestyle=dashes,
            color=color,
            linewidth=1.5,
            marker="o" if few else None,
            markersize=3.5,
        )
        present = np.flatnonzero(~np.isnan(curve))
        if present.size:
            last = present[-1]
            ends.append((float(series.iterations[last]), float(curve[last]), color))
    axis.set_title(metric.replace("/", " "), fontsize=9, loc="left", color="#222228")
    _dress(axis)
    if max(len(run.series[metric].values) for run in runs if metric in run.series) == 1:
        # A single value has no range of its own: it stands over zero.
        axis.set_ylim(0, 1.25 * max([value for _, value, _ in ends if value > 0], default=1))
    _label_ends(axis, ends)


def _dress(axis: Any) -> None:
    quiet(axis)
    axis.grid(visible=False, axis="x")
    axis.tick_params(labelsize=7.5)
    axis.margins(y=0.12)
    axis.locator_params(axis="x", nbins=4, integer=True)
    axis.locator_params(axis="y", nbins=5)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useOffset=False)
    axis.yaxis.get_offset_text().set_fontsize(7.5)
    axis.yaxis.get_offset_text().set_color(SOFT)


def _label_ends(axis: Any, ends: Sequence[tuple[float, float, str]]) -> None:
    """Write the last value of each line right of the panel, apart from each other."""
    low, high = axis.get_ylim()
    apart = 0.115 * (high - low)
    ordered = sorted(ends, key=lambda end: end[1])
    places: list[float] = []
    for _, value, _ in ordered:
        places.append(max(value, places[-1] + apart) if places else value)
    # What was pushed out at the top pushes the others down.
    ceiling = high
    for at in reversed(range(len(places))):
        places[at] = min(places[at], ceiling)
        ceiling = places[at] - apart
    for (_, value, color), place in zip(ordered, places, strict=True):
        axis.annotate(
            short_number(value),
            xy=(1.015, place),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            color=color,
            va="center",
            annotation_clip=False,
        )


def _style(number: int) -> tuple[str, Any]:
    return COLORS[number % len(COLORS)], _DASHES[number // len(COLORS) % len(_DASHES)]


if __name__ == "__main__":
    sys.exit(main())
