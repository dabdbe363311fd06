"""An experiment as Markdown: what was trained, all scores, and the paired differences."""

from __future__ import annotations

from collections.abc import Iterator

from freqfusion.tools._ablate.matrix import Experiment
from freqfusion.tools._ablate.scores import Scores
from freqfusion.tools._ablate.statistics import Estimate, are_apart
from freqfusion.tools._markdown import table

EMPTY = "not measured"


def render(scores: Scores, figure: str | None) -> str:
    """The section of one experiment; ``figure`` is the file that stands in it."""
    experiment = scores.experiment
    parts = [f"### {experiment.title}", _about(scores)]
    if experiment.dial:
        parts.append(_curve(scores))
    else:
        parts += [_means(scores), _gains(scores)]
    if figure:
        parts.append(f"![{experiment.title}: paired differences]({figure})")
    return "\n\n".join(parts)


def _about(scores: Scores) -> str:
    experiment, rows = scores.experiment, scores.rows
    wanted = len(experiment.seeds) * len(experiment.methods) * max(1, len(experiment.values))
    data = ", ".join(f"{key} {value}" for key, value in experiment.data.items())
    said = f"`{experiment.name}`: `configs/{experiment.config}`; scenes: {data}."
    if experiment.dial:
        listed = ", ".join(f"{value:g}" for value in experiment.values)
        said += f" Dial: {experiment.dial} {listed}."
    said += f" {len(rows)} of {wanted} runs are measured."
    if rows:
        revisions = sorted({(row["revision"] or "unknown")[:8] for row in rows})
        torch = sorted({str(row["versions"]["torch"]) for row in rows})
        devices = sorted({row["device"] for row in rows})
        said += f" Device {', '.join(devices)}, torch {', '.join(torch)},"
        said += f" revision {', '.join(revisions)}."
    return said


def _means(scores: Scores) -> str:
    """A line for each method: means over the seeds, and what it costs."""
    experiment = scores.experiment
    header = [
        "method", "seeds", *experiment.metrics, "learning rate", "parameters", "step (s)",
    ]  # fmt: skip
    lines = []
    for name, method in experiment.methods.items():
        means = [scores.mean(name, path) for path in experiment.metrics.values()]
        seeds = str(max((one.n for one in means if one), default=0) or "")
        rates = ", ".join(f"x{factor:g}" for factor in scores.rates(name))
        parameters, step = scores.fact(name, "parameters"), scores.fact(name, "step_seconds")
        cost = [
            EMPTY if parameters is None else f"{parameters / 1e6:.2f} M",
            EMPTY if step is None else f"{step:.2f}",
        ]
        lines.append([method.title, seeds, *map(interval, means), rates or EMPTY, *cost])
    return table(header, lines)


def _gains(scores: Scores) -> str:
    """A line for each pair: its paired differences."""
    experiment = scores.experiment
    lines = []
    for pair in experiment.pairs:
        titles = [experiment.methods[name].title for name in pair]
        cells = [_gain_cell(scores, pair, path) for path in experiment.metrics.values()]
        lines.append([f"{titles[0]} − {titles[1]}", *cells])
    return table(["difference, paired by seed", *experiment.metrics], lines)


def _gain_cell(scores: Scores, pair: tuple[str, str], path: str) -> str:
    cell = difference(scores.gain(pair, path))
    apart = are_apart(scores.mean(pair[0], path), scores.mean(pair[1], path))
    return f"{cell} †" if apart else cell


def _curve(scores: Scores) -> str:
    """A line for each pair and value of the dial."""
    return table(
        [f"{scores.experiment.dial}", "difference", *scores.experiment.metrics], _points(scores)
    )


def _points(scores: Scores) -> Iterator[list[str]]:
    experiment: Experiment = scores.experiment
    for pair in experiment.pairs:
        titles = [experiment.methods[name].title for name in pair]
        for value in experiment.values:
            cells = [
                difference(scores.gain(pair, path, value)) for path in experiment.metrics.values()
            ]
            yield [f"{value:g}", f"{titles[0]} − {titles[1]}", *cells]


def interval(one: Estimate | None) -> str:
    """``31.2 ± 0.8``; without a spread ``31.2``."""
    if one is None:
        return EMPTY
    return f"{one.mean:.1f}" if one.half is None else f"{one.mean:.1f} ± {one.half:.1f}"


def difference(one: Estimate | None) -> str:
    """``+1.2 (+0.4 to +2.0)``, bold where the interval leaves zero out."""
    if one is None:
        return EMPTY
    if one.low is None or one.high is None:
        return f"{one.mean:+.1f}"
    text = f"{one.mean:+.1f} ({one.low:+.1f} to {one.high:+.1f})"
    return f"**{text}**" if one.is_clear else text
