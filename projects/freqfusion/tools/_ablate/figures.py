"""Paired differences as pictures: by pair, or as curves over a dial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from freqfusion.analysis.canvas import BLACK, BLUE, ORANGE, SOFT, new_figure, quiet
from freqfusion.tools._ablate.scores import Scores
from freqfusion.tools._ablate.statistics import Estimate

# Told apart with any colour vision, and by their marks.
_STYLES = ((BLUE, "o"), (ORANGE, "s"), ("#009E73", "^"), ("#CC79A7", "D"), (BLACK, "v"))


def draw(scores: Scores) -> Any:
    """The figure of an experiment, None where nothing of it is measured."""
    if scores.experiment.dial:
        return _curves(scores)
    return _forest(scores)


def _forest(scores: Scores) -> Any:
    """A panel for each score; in it a line with its interval for each pair."""
    experiment = scores.experiment
    measured = {
        title: [scores.gain(pair, path) for pair in experiment.pairs]
        for title, path in experiment.metrics.items()
    }
    measured = {title: gains for title, gains in measured.items() if any(gains)}
    if not measured:
        return None
    names = [
        "{} −\n{}".format(*(_short(experiment.methods[name].title) for name in pair))
        for pair in experiment.pairs
    ]
    figure = new_figure(2.0 + 2.3 * len(measured), 0.9 + 0.46 * len(names))
    axes = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for axis, (title, gains) in zip(axes, measured.items(), strict=True):
        _points_of(axis, gains)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("difference in points, 95 % interval over seeds", fontsize=9, color=SOFT)
    return figure


def _points_of(axis: Any, gains: Sequence[Estimate | None]) -> None:
    quiet(axis)
    axis.axvline(0, color=SOFT, linewidth=1)
    for place, gain in enumerate(gains):
        if gain is None:
            continue
        color = SOFT if not gain.is_clear else BLUE if gain.mean > 0 else ORANGE
        axis.errorbar(
            [gain.mean], [place], xerr=None if gain.half is None else [gain.half], fmt="o",
            color=color, capsize=3, markersize=5,
        )  # fmt: skip


def _curves(scores: Scores) -> Any:
    """A panel for each score: the gain over the dial, a curve for each pair."""
    experiment = scores.experiment
    panels = {
        title: [
            [(value, scores.gain(pair, path, value)) for value in experiment.values]
            for pair in experiment.pairs
        ]
        for title, path in experiment.metrics.items()
    }
    panels = {
        title: curves
        for title, curves in panels.items()
        if any(gain for curve in curves for _, gain in curve)
    }
    if not panels:
        return None
    figure = new_figure(3.1 * len(panels) + 0.4, 3.2)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        quiet(axis)
        axis.axhline(0, color=SOFT, linewidth=1)
        for number, curve in enumerate(curves):
            _curve(axis, curve, number)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xticks(list(experiment.values), [f"{value:g}" for value in experiment.values])
    axes[0].set_ylabel("difference in points, 95 % interval", fontsize=9)
    figure.supxlabel(str(experiment.dial).replace("_", " "), fontsize=9)
    figure.legend(handles=_handles(scores), loc="outside upper left", frameon=False, fontsize=9)
    return figure


def _curve(axis: Any, curve: Sequence[tuple[float, Estimate | None]], number: int) -> None:
    color, mark = _STYLES[number % len(_STYLES)]
    known = [(value, gain) for value, gain in curve if gain is not None]
    axis.errorbar(
        [value for value, _ in known],
        [gain.mean for _, gain in known],
        yerr=[gain.half or 0.0 for _, gain in known],
        color=color,
        marker=mark,
        capsize=3,
        markersize=5,
    )


def _handles(scores: Scores) -> list[Any]:
    from matplotlib.lines import Line2D

    methods = scores.experiment.methods
    return [
        Line2D(
            [], [], color=_STYLES[number % len(_STYLES)][0],
            marker=_STYLES[number % len(_STYLES)][1],
            label=f"{methods[ours].title} − {methods[reference].title}",
        )
        for number, (ours, reference) in enumerate(scores.experiment.pairs)
    ]  # fmt: skip


def _short(title: str) -> str:
    """Without what stands in brackets."""
    return title.partition(" (")[0]
