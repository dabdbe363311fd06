"""Draw losses and scores of training runs: ``python -m freqfusion.tools.plot_metrics RUN ...``.

A run is an output folder of ``train_net.py``, or its ``metrics.json``. Several runs share the
panels, one for each metric, in groups by the part of the name before the slash.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.analysis.figures import SOFT, new_figure, quiet
from freqfusion.tools._arguments import number_from, parse

logger = logging.getLogger(__name__)
FILE_NAME = "metrics.json"
FORMATS = (".png", ".svg", ".pdf")
COLUMNS = 4
# Okabe and Ito's colors, which can be told apart with any color vision; dashes when they run out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
FloatArray = NDArray[np.float64]
# Of a plot without --metrics: losses but for those of single layers, and scores of whole tasks.
_LOSS = re.compile(r"(total|validation)_loss|loss_[a-z_]*[a-z]")
_USUAL = re.compile(rf"{_LOSS.pattern}|lr|[^/]+/[^/-]+")
_INNER = re.compile(r"(fast_rcnn|roi_head|mask_rcnn|rpn|retinanet)/.*|.*/AP[sml]|.*time.*|.*eta.*")


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the runs; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    path: Path = options.output
    try:
        if path.suffix.lower() not in FORMATS:
            raise ValueError(f"--output {path} must end in {', '.join(FORMATS)}")
        if path.is_dir():
            raise ValueError(f"--output {path} is a folder; name a file")
        runs = read_runs(options.runs)
        groups = choose((name for run in runs for name in run.series), options.metrics)
        path.parent.mkdir(parents=True, exist_ok=True)
        build_figure(runs, groups, options.smooth).savefig(path, dpi=150)
    except (ValueError, OSError) as error:
        print(f"plot_metrics: {error}", file=sys.stderr)
        return 2
    print(f"{len(runs)} runs, {sum(map(len, groups.values()))} metrics\nfigure: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.plot_metrics",
        description="Draw losses, learning rate and scores of one or several training runs.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="output folder or metrics.json")
    add("--output", type=Path, required=True, metavar="FILE", help="*.png, *.svg or *.pdf")
    regex = "draw what one of these fits; not given: losses, learning rate and mean scores"
    add("--metrics", nargs="+", default=(), metavar="REGEX", help=regex)
    smooth = "average losses over N records, at most a tenth of all; 1 draws them as they are (20)"
    add("--smooth", type=number_from(1), default=20, metavar="N", help=smooth)
    return parser


def read_runs(paths: Iterable[Path]) -> list[TrainingRun]:
    """Return runs from output folders or their ``metrics.json``, called by their paths.

    Raises:
        ValueError: if a file is missing or has no line that can be read.
    """
    files = [path / FILE_NAME if path.is_dir() else path for path in paths]
    return [TrainingRun(str(path.parent), read_series(path)) for path in files]


def read_series(file: Path) -> dict[str, MetricSeries]:
    """Return every metric of a file.

    Lines that cannot be read, such as one that a killed run left unfinished, are left out. Where
    the iteration falls back, the run was resumed: what was written from there on is replaced.
    """
    if not file.is_file():
        raise ValueError(
            f"there is no {file}; name an output folder of train_net.py or its {FILE_NAME}"
        )
    kept: dict[int, dict[str, float]] = {}
    broken = 0
    for line in filter(str.strip, file.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            record = json.loads(line)
            at = int(record.pop("iteration"))
        except (AttributeError, KeyError, TypeError, ValueError):
            broken += 1
            continue
        if kept and at <= max(kept):
            kept = {before: values for before, values in kept.items() if before < at}
        kept[at] = {name: float(value) for name, value in record.items() if _is_number(value)}
    if not kept:
        raise ValueError(
            f"{file} has no line with metrics; Detectron2 writes JSON lines with an 'iteration'"
        )
    if broken:
        logger.warning("%s: %d lines cannot be read and are left out", file, broken)
    points: dict[str, list[tuple[int, float]]] = {}
    for at, values in kept.items():
        for name, value in values.items():
            points.setdefault(name, []).append((at, value))
    return {name: MetricSeries(*np.array(of_one, np.float64).T) for name, of_one in points.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def choose(known: Iterable[str], patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return metrics by group: those that one of the patterns fits anywhere, or the usual ones.

    Raises:
        ValueError: if there are none, or a pattern is no regular expression or fits nothing.
    """
    names = sorted(dict.fromkeys(known), key=_natural)
    chosen = [one for one in names if _USUAL.fullmatch(one) and not _INNER.fullmatch(one)]
    if patterns:
        by_pattern = {pattern: _fitting(pattern, names) for pattern in patterns}
        for pattern, fitting in by_pattern.items():
            if not fitting:
                raise ValueError(f"no metric matches {pattern!r}; known are {', '.join(names)}")
        chosen = [one for one in names if any(one in fitting for fitting in by_pattern.values())]
    if not chosen:
        raise ValueError(
            "no loss, learning rate or score was found; choose with --metrics from"
            f" {', '.join(names) or 'nothing'}"
        )
    groups: dict[str, list[str]] = {}
    for name in sorted(chosen, key=lambda name: "/" in name):
        groups.setdefault(name.partition("/")[0] if "/" in name else "training", []).append(name)
    return groups


def _fitting(pattern: str, names: Sequence[str]) -> list[str]:
    try:
        return [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts loss_ce_10 after loss_ce_9."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def build_figure(runs: Sequence[TrainingRun], groups: dict[str, list[str]], smooth: int) -> Any:
    """Draw a panel for each metric, with lines for the runs that have it.

    Losses are smoothed over ``smooth`` records, with the records themselves faint behind; the last
    values stand in the titles, and alone where no run has two values. Metrics without any value
    are left out.
    """
    counts = {
        metric: max(_count(run, metric) for run in runs)
        for metrics in groups.values()
        for metric in metrics
    }
    groups = {name: [one for one in of_group if counts[one]] for name, of_group in groups.items()}
    groups = {name: metrics for name, metrics in groups.items() if metrics}
    if not groups:
        raise ValueError("the metrics have no values that are numbers")
    columns = min(COLUMNS, max(map(len, groups.values())))
    heights = []
    for metrics in groups.values():
        is_curve = [counts[one] > 1 for one in metrics]
        starts = range(0, len(metrics), columns)
        heights.append([2.15 if any(is_curve[at : at + columns]) else 0.42 for at in starts])
    sums = [sum(of_group) + 0.32 for of_group in heights]
    figure = new_figure(max(3.3 * columns, 5.0), sum(sums) + 0.6)
    parts = figure.subfigures(len(groups), 1, height_ratios=sums, squeeze=False)[:, 0]
    for part, (name, metrics), high in zip(parts, groups.items(), heights, strict=True):
        part.suptitle(name, x=0.012, ha="left", fontsize=11, fontweight="bold")
        axes = part.subplots(len(high), columns, squeeze=False, height_ratios=high).ravel()
        for axis, metric in zip(axes, metrics, strict=False):
            _draw_metric(axis, metric, runs, smooth)
            if counts[metric] < 2:
                axis.set_axis_off()
                for line in axis.lines:  # the legend needs its color
                    line.set_data([], [])
        for axis in axes[len(metrics) :]:
            axis.set_axis_off()
    if any(count > 1 for count in counts.values()):
        figure.supxlabel("iteration", fontsize=8, color=SOFT)
    if len(runs) > 1:
        lines = {line.get_label(): line for axis in figure.axes for line in axis.lines}
        names = [run.name for run in runs if run.name in lines]
        where = {"loc": "outside upper left", "ncols": min(len(runs), columns)}
        figure.legend([lines[one] for one in names], names, frameon=False, fontsize=9, **where)
    return figure


def _count(run: TrainingRun, metric: str) -> int:
    """Return how many values a run has that are numbers."""
    if metric not in run.series:
        return 0
    return int(np.count_nonzero(~np.isnan(run.series[metric].values)))


def _draw_metric(axis: Any, metric: str, runs: Sequence[TrainingRun], smooth: int) -> None:
    ends = []
    for number, run in enumerate(runs):
        if metric not in run.series:
            continue
        at, values = run.series[metric].iterations, run.series[metric].values
        color, dashes = COLORS[number % len(COLORS)], _DASHES[number // len(COLORS) % len(_DASHES)]
        curve = smoothed(values, smooth) if _LOSS.fullmatch(metric) else values
        if not np.array_equal(curve, values, equal_nan=True):
            axis.plot(at, values, color=color, alpha=0.22, linewidth=0.8)
        style = {"marker": "o" if len(curve) <= 12 else None, "markersize": 3.5}
        axis.plot(at, curve, dashes, color=color, linewidth=1.5, label=run.name, **style)
        ends += [f"{value:.3g}" for value in curve[~np.isnan(curve)][-1:]]
    title = f"{metric.replace('/', ' ')}: {', '.join(ends) or '-'}"
    axis.set_title(title, fontsize=9, loc="left", color="#222228")
    quiet(axis)
    axis.tick_params(labelsize=7.5)
    axis.locator_params(nbins=4)


def smoothed(values: FloatArray, window: int) -> FloatArray:
    """Return means over ``window`` neighbors, fewer at the ends; nan counts nowhere.

    At most a tenth of the values are averaged, so that the curve of a short run stays as it is.
    """
    half = min(window, len(values) // 10) // 2
    if half < 1:
        return values.copy()
    present = ~np.isnan(values)
    window_of_ones = np.ones(2 * half + 1)
    sums = np.convolve(np.where(present, values, 0.0), window_of_ones, mode="same")
    counts = np.convolve(present, window_of_ones, mode="same")
    return np.where(present, sums / np.maximum(counts, 1), np.nan)


if __name__ == "__main__":
    sys.exit(main())
