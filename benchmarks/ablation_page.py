"""docs/evidence.md: means over seeds, paired differences with their intervals, and figures.

What varies between seeds is the training: initial weights, order and augmentation of the images.
The scenes stay the same, so the intervals of Student's t distribution say nothing about others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ablation_matrix import LEARNING_RATES, Experiment, Matrix, Question
from benchmarks.documents import NOT_MEASURED, read_json, table, write_marked
from freqfusion.analysis.figures import BLACK, BLUE, ORANGE, SOFT, new_figure, quiet

COMMAND = "python -m benchmarks.ablation --write-docs"
CONFIDENCE = 0.95
# Distinct with any colour vision, and by their markers.
_STYLES = ((BLUE, "o"), (ORANGE, "s"), ("#009E73", "^"), ("#CC79A7", "D"), (BLACK, "v"))


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` values, and half the width of its 95 % interval.

    The latter is None for a single value, which says nothing about its spread.
    """

    n: int
    mean: float
    half: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return mean and 95 % interval; None without values."""
    n = len(values)
    if not n:
        return None
    mean = statistics.fmean(values)
    if n == 1:
        return Estimate(1, mean, None)
    return Estimate(n, mean, t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n))


def paired(ours: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """Return the difference of two methods over the seeds that both have."""
    return estimate([ours[seed] - reference[seed] for seed in sorted(ours) if seed in reference])


def are_apart(one: Estimate | None, other: Estimate | None) -> bool:
    """Say whether both intervals are known and do not touch."""
    if one is None or other is None or one.half is None or other.half is None:
        return False
    return abs(one.mean - other.mean) > one.half + other.half


def t_quantile(freedom: int) -> float:
    """Return how many standard errors the two-sided 95 % interval reaches."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


class ExperimentScores:
    """The rows of one experiment: by method, value of the dial and path of the score.

    Rows of methods, seeds and values that the experiment does not declare do not count.
    """

    def __init__(self, experiment: Experiment, rows: Iterable[Mapping[str, Any]]) -> None:
        self.experiment = experiment
        self.rows = [
            row
            for row in rows
            if row["experiment"] == experiment.name
            and row["method"] in experiment.methods
            and row["seed"] < experiment.seeds[row["method"]]
            and self._value(row) in (experiment.values or (None,))
        ]

    def seeds(self, method: str, path: str, value: float | None = None) -> dict[int, float]:
        """Return the score by seed; what was not measured is left out."""
        return {
            row["seed"]: row["scores"][path]
            for row in self.rows
            if row["method"] == method
            and self._value(row) == value
            and row["scores"].get(path) is not None
        }

    def mean(self, method: str, path: str) -> Estimate | None:
        """Return the mean over the seeds."""
        return estimate(list(self.seeds(method, path).values()))

    def gain(self, pair: tuple[str, str], path: str, value: float | None = None) -> Estimate | None:
        """Return the paired difference, the method minus its reference."""
        return paired(self.seeds(pair[0], path, value), self.seeds(pair[1], path, value))

    def facts(self, method: str, name: str) -> list[Any]:
        """Return what the rows of a method have beside scores, such as ``step_seconds``."""
        return [row[name] for row in self.rows if row["method"] == method and row[name]]

    def _value(self, row: Mapping[str, Any]) -> float | None:
        dial = self.experiment.dial
        value: float | None = row["dial"].get(dial) if dial else None
        return value


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return all rows under a folder, in the order of their paths."""
    paths = sorted(folder.rglob("*.json"))
    return [read_json(path) for path in paths if path.name != LEARNING_RATES]


def write_document(matrix: Matrix, results: Path, document: Path) -> list[Path]:
    """Draw the figures and replace what stands between the marks; returns what was written.

    Raises:
        ValueError: for a document without marks, and for rows that cannot be read.
    """
    rows = read_rows(results)
    write_marked(document, COMMAND, render_page(matrix, rows, document))
    written = [document]
    for experiment in matrix.experiments.values():
        path = figure_path(document, experiment.name)
        figure = draw(ExperimentScores(experiment, rows))
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            figure.savefig(path, dpi=110, metadata={"Software": None})
            written.append(path)
    return written


def render_page(matrix: Matrix, rows: Iterable[Mapping[str, Any]], document: Path) -> str:
    """Return what stands between the marks: the answers, then a section for each experiment."""
    rows = list(rows)
    scores = {name: ExperimentScores(one, rows) for name, one in matrix.experiments.items()}
    header = ["question", "compared", "score", "difference", "answer"]
    answers = [_answer(question, scores[question.experiment]) for question in matrix.questions]
    sections = ["## Answers", table(header, answers), "## Results"] if answers else []
    for name, one in scores.items():
        if one.rows:
            figure = figure_path(document, name).name if _panels(one) else None
            sections.append(render_section(one, figure))
    return "\n\n".join(sections)


def figure_path(document: Path, experiment: str) -> Path:
    """Return the file of an experiment's figure: docs/evidence-<experiment>.png."""
    return document.with_name(f"{document.stem}-{experiment.replace('_', '-')}.png")


def render_section(scores: ExperimentScores, figure: str | None) -> str:
    """Return the section of one experiment; ``figure`` is the file that stands in it."""
    experiment = scores.experiment
    parts = [f"### {experiment.title}", _about(scores)]
    if experiment.dial:
        header = [experiment.dial, "difference", *experiment.metrics]
        parts.append(table(header, _curve_lines(scores)))
    else:
        parts += [_means(scores), _gains(scores)]
    if figure:
        parts.append(f"![{experiment.title}: paired differences]({figure})")
    return "\n\n".join(parts)


def _answer(question: Question, scores: ExperimentScores) -> list[str]:
    """Return the line of a question: yes or no where the interval leaves zero out."""
    experiment = scores.experiment
    path = experiment.metrics[question.metric]
    gain = scores.gain(question.pair, path)
    title = "".join(c for c in experiment.title.lower() if c.isalnum() or c in " -")
    link = f"[{question.ask}](#{title.replace(' ', '-')})"
    answer = "not settled"
    if gain and gain.is_clear:
        answer = "**yes**" if gain.mean > 0 else "**no**, it is worse"
    if gain:
        answer += f" ({gain.n} {'seed' if gain.n == 1 else 'seeds'})"
    compared = _minus(experiment, question.pair, short=True)
    return [link, compared, question.metric, difference_text(gain), answer]


def _about(scores: ExperimentScores) -> str:
    """Return what was trained, with which learning rates, where, and the command."""
    experiment, rows = scores.experiment, scores.rows
    scenes = "scenes with " + ", ".join(f"{key} {value}" for key, value in experiment.data.items())
    data = f"data set {experiment.data['name']}" if "name" in experiment.data else scenes
    revisions = sorted({(row["revision"] or "unknown")[:8] for row in rows})
    torch = sorted({str(row["versions"]["torch"]) for row in rows})
    devices = sorted({row["device"] for row in rows})
    text = (
        f"`python -m benchmarks.ablation --only {experiment.name}`: `configs/{experiment.config}`; "
    )
    text += f"{data}; {_learning_rates(scores)}. Measured on {', '.join(devices)} with torch "
    return text + f"{', '.join(torch)} at revision {', '.join(revisions)}."


def _learning_rates(scores: ExperimentScores) -> str:
    """Return which multiple of the configuration's learning rate the methods took."""
    by_factor: dict[float, set[str]] = {}
    for row in scores.rows:
        rate, title = row["learning_rate"], scores.experiment.methods[row["method"]].title
        by_factor.setdefault(rate["factor"], set()).add(title)
    if len(by_factor) == 1:
        return f"learning rate x{next(iter(by_factor)):g} for all"
    parts = [
        f"x{factor:g} for {', '.join(sorted(by_factor[factor]))}" for factor in sorted(by_factor)
    ]
    return f"learning rate {'; '.join(parts)}"


def _means(scores: ExperimentScores) -> str:
    """Return a line for each method that was measured: means over the seeds, and its size."""
    experiment = scores.experiment
    lines = []
    for name, method in experiment.methods.items():
        means = [scores.mean(name, path) for path in experiment.metrics.values()]
        parameters = scores.facts(name, "parameters")
        if parameters:
            seeds = str(max(one.n for one in means if one))
            size = f"{statistics.fmean(parameters) / 1e6:.2f} M"
            lines.append([method.title, seeds, *map(interval_text, means), size])
    return table(["method", "seeds", *experiment.metrics, "parameters"], lines)


def _gains(scores: ExperimentScores) -> str:
    """Return a line for each pair that was measured: its paired differences."""
    experiment = scores.experiment
    measured = {row["method"] for row in scores.rows}
    lines = []
    for pair in experiment.pairs:
        if not measured.issuperset(pair):
            continue
        cells = []
        for path in experiment.metrics.values():
            apart = are_apart(*(scores.mean(name, path) for name in pair))
            cells.append(difference_text(scores.gain(pair, path)) + (" †" if apart else ""))
        lines.append([_minus(experiment, pair), *cells])
    return table(["difference, paired by seed", *experiment.metrics], lines)


def _curve_lines(scores: ExperimentScores) -> Iterator[list[str]]:
    """Yield a line for each pair and value of the dial."""
    experiment = scores.experiment
    for pair in experiment.pairs:
        for value in experiment.values:
            gains = [scores.gain(pair, path, value) for path in experiment.metrics.values()]
            yield [f"{value:g}", _minus(experiment, pair), *map(difference_text, gains)]


def _minus(experiment: Experiment, pair: Sequence[str], *, short: bool = False) -> str:
    """Return ``FreqFusion − bilinear``; without what stands in parentheses if ``short``."""
    titles = [experiment.methods[name].title for name in pair]
    return " − ".join(title.partition(" (")[0] if short else title for title in titles)


def interval_text(one: Estimate | None) -> str:
    """Return ``31.2 ± 0.8``; without a spread ``31.2``."""
    if one is None:
        return NOT_MEASURED
    return f"{one.mean:.1f}" if one.half is None else f"{one.mean:.1f} ± {one.half:.1f}"


def difference_text(one: Estimate | None) -> str:
    """Return ``+1.2 (+0.4 to +2.0)``, bold where the interval leaves zero out."""
    if one is None:
        return NOT_MEASURED
    if one.half is None:
        return f"{one.mean:+.1f}"
    text = f"{one.mean:+.1f} ({one.mean - one.half:+.1f} to {one.mean + one.half:+.1f})"
    return f"**{text}**" if one.is_clear else text


def _panels(scores: ExperimentScores) -> dict[str, list[list[tuple[float | None, Estimate]]]]:
    """Return the differences by score; of each pair, with the values of the dial.

    A score without any is left out.
    """
    experiment = scores.experiment
    panels = {}
    for title, path in experiment.metrics.items():
        gains = [
            [(value, scores.gain(pair, path, value)) for value in experiment.values or (None,)]
            for pair in experiment.pairs
        ]
        known = [[(value, gain) for value, gain in pair if gain] for pair in gains]
        if any(known):
            panels[title] = known
    return panels


def draw(scores: ExperimentScores) -> Any:
    """Return the figure of an experiment, None where nothing of it is measured."""
    panels = _panels(scores)
    if not panels:
        return None
    return _draw_curves(scores, panels) if scores.experiment.dial else _draw_pairs(scores, panels)


def _draw_pairs(scores: ExperimentScores, panels: Mapping[str, Any]) -> Any:
    """Draw a panel for each score; in it a line with its interval for each pair."""
    experiment = scores.experiment
    names = [
        _minus(experiment, pair, short=True).replace(" − ", " −\n") for pair in experiment.pairs
    ]
    figure = new_figure(2.0 + 2.3 * len(panels), 0.9 + 0.46 * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, pairs) in zip(axes, panels.items(), strict=True):
        quiet(axis)
        axis.axvline(0, color=SOFT, linewidth=1)
        for line, points in enumerate(pairs):
            for _, gain in points:
                color = SOFT if not gain.is_clear else BLUE if gain.mean > 0 else ORANGE
                axis.errorbar(
                    [gain.mean], [line], xerr=None if gain.half is None else [gain.half], fmt="o",
                    color=color, capsize=3, markersize=5,
                )  # fmt: skip
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.4, -0.6)
    figure.supxlabel("difference in points, 95 % interval over seeds", fontsize=9, color=SOFT)
    return figure


def _draw_curves(scores: ExperimentScores, panels: Mapping[str, Any]) -> Any:
    """Draw a panel for each score: the gain over the dial, a curve for each pair."""
    experiment = scores.experiment
    labels = [_minus(experiment, pair) for pair in experiment.pairs]
    figure = new_figure(3.1 * len(panels) + 0.4, 3.2)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        quiet(axis)
        axis.axhline(0, color=SOFT, linewidth=1)
        for number, points in enumerate(curves):
            color, marker = _STYLES[number % len(_STYLES)]
            axis.errorbar(
                [value for value, _ in points],
                [gain.mean for _, gain in points],
                yerr=[gain.half or 0.0 for _, gain in points],
                color=color,
                marker=marker,
                capsize=3,
                markersize=5,
                label=labels[number],
            )
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xticks(list(experiment.values), [f"{value:g}" for value in experiment.values])
    axes[0].set_ylabel("difference in points, 95 % interval", fontsize=9)
    figure.supxlabel(str(experiment.dial).replace("_", " "), fontsize=9)
    handles = axes[0].get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside upper left", frameon=False, fontsize=9)
    return figure
