"""One small panel for each metric, rows for each group, and a colour for each run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from freqfusion.analysis.canvas import new_figure
from freqfusion.tools._plot_metrics.choosing import Group, is_smoothed
from freqfusion.tools._plot_metrics.reading import FloatArray, Run

COLUMNS = 4
# Okabe and Ito's colours, which can be told apart with any colour vision; dashes when they run out.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_SOFT = "#6b6b73"
FORMATS = (".png", ".svg", ".pdf")


def draw_figure(runs: Sequence[Run], groups: Sequence[Group], output: Path, smooth: int) -> int:
    """Write the figure of ``build_figure``; returns the number of panels."""
    import matplotlib as mpl

    # Text stays text in SVG and PDF, and the SVG of the same runs is the same file.
    settings: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "freqfusion"}
    with mpl.rc_context(settings):
        figure = build_figure(runs, groups, smooth)
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=150)
    return sum(len(group.metrics) for group in groups)


def build_figure(runs: Sequence[Run], groups: Sequence[Group], smooth: int) -> Any:
    """A panel for each metric, with lines for the runs that have it: a matplotlib Figure.

    Losses are smoothed over ``smooth`` records, with the records themselves faint behind.
    """
    columns = min(COLUMNS, max(len(group.metrics) for group in groups))
    rows = [math.ceil(len(group.metrics) / columns) for group in groups]
    figure = new_figure(max(3.3 * columns, 5.0), 2.15 * sum(rows) + 0.32 * len(groups) + 0.6)
    parts = figure.subfigures(len(groups), 1, height_ratios=rows, squeeze=False)[:, 0]
    for part, group, high in zip(parts, groups, rows, strict=True):
        _draw_group(part, group, (high, columns), runs, smooth)
    last = _last_iteration(runs, groups)
    for axis in figure.axes:
        axis.set_xlim(-0.03 * last, 1.03 * last)
    parts[-1].supxlabel("iteration", fontsize=8, color=_SOFT)
    if len(runs) > 1:
        figure.legend(
            handles=_handles(runs),
            loc="outside upper left",
            ncols=min(len(runs), columns),
            frameon=False,
            fontsize=9,
        )
    return figure


def smoothed(values: FloatArray, window: int) -> FloatArray:
    """Mean over ``window`` neighbours around each value, fewer at the ends; nan counts nowhere.

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
    """Three figures or so: 0.0123, 1.25, 63.4, 1234, 2.5e-05."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.2g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if abs(value) < 1 and "." in text else text


def _last_iteration(runs: Sequence[Run], groups: Sequence[Group]) -> float:
    """The end of the axis that all panels share."""
    drawn = {metric for group in groups for metric in group.metrics}
    ends = [
        float(series.iterations[-1])
        for run in runs
        for metric, series in run.series.items()
        if metric in drawn
    ]
    return max([*ends, 1.0])


def _draw_group(
    part: Any, group: Group, shape: tuple[int, int], runs: Sequence[Run], smooth: int
) -> None:
    part.suptitle(group.name, x=0.012, ha="left", fontsize=11, fontweight="bold")
    axes = part.subplots(*shape, squeeze=False).ravel()
    for axis, metric in zip(axes, group.metrics, strict=False):
        _draw_metric(axis, metric, runs, smooth)
    for axis in axes[len(group.metrics) :]:
        axis.set_axis_off()


def _draw_metric(axis: Any, metric: str, runs: Sequence[Run], smooth: int) -> None:
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
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#b8b8c0")
    axis.tick_params(labelsize=7.5, colors=_SOFT, length=2.5)
    axis.grid(axis="y", color="#e6e6ea", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.margins(y=0.12)
    axis.locator_params(axis="x", nbins=4, integer=True)
    axis.locator_params(axis="y", nbins=5)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useOffset=False)
    axis.yaxis.get_offset_text().set_fontsize(7.5)
    axis.yaxis.get_offset_text().set_color(_SOFT)


def _label_ends(axis: Any, ends: Sequence[tuple[float, float, str]]) -> None:
    """The last value of each line right of the panel, moved apart where they would overlap."""
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


def _handles(runs: Sequence[Run]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=_style(number)[0], linestyle=_style(number)[1], label=run.name)
        for number, run in enumerate(runs)
    ]


def _style(number: int) -> tuple[str, Any]:
    return COLORS[number % len(COLORS)], _DASHES[number // len(COLORS) % len(_DASHES)]
