"""Sections from the files that a training run has left: scores and curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from freqfusion.tools._plot_metrics.choosing import choose
from freqfusion.tools._plot_metrics.figure import build_figure
from freqfusion.tools._plot_metrics.reading import FILE_NAME, read_runs
from freqfusion.tools._report.context import Context
from freqfusion.tools._report.section import Section, from_figure, paragraphs, table

_RESULTS = "results.json"
_SMOOTH = 20


def results(context: Context) -> Section:
    """The scores of ``results.json``: one table for each task, those of classes apart."""
    run = _run(context)
    path = run / _RESULTS
    if not path.is_file():
        raise ValueError(f"{run} has no {_RESULTS}; train_net.py writes it after an evaluation")
    content = read_json(path)
    datasets = content.get("datasets")
    if not _are_scores(datasets):
        raise ValueError(f"{path} has no scores by data set and task, which train_net.py writes")
    iteration = content.get("iteration")
    said = f"After {iteration} iterations, in percent." if iteration else "In percent."
    body = paragraphs(said)
    for dataset, tasks in datasets.items():
        for task, scores in tasks.items():
            body += _task_tables(f"{dataset}, {task}", scores)
    return Section("Results", body)


def curves(context: Context) -> Section:
    """Losses, learning rate and scores over the training."""
    run = _run(context)
    if not (run / FILE_NAME).is_file():
        raise ValueError(f"{run} has no {FILE_NAME}, which training writes")
    runs = read_runs([run])
    figure = build_figure(runs, choose(runs[0].series, ()), _SMOOTH)
    return Section("Training", images=[from_figure(figure, "losses, learning rate and scores")])


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with an object; ValueError for any other."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object, but {type(content).__name__}")
    return content


def _run(context: Context) -> Path:
    if context.run is None:
        raise ValueError("no run is given; name the output folder of the training with --run")
    return context.run


def _are_scores(datasets: Any) -> TypeGuard[Mapping[str, Mapping[str, Mapping[str, Any]]]]:
    if not isinstance(datasets, Mapping):
        return False
    tasks = [one for by_task in datasets.values() for one in _values(by_task)]
    return all(
        isinstance(task, Mapping)
        and all(value is None or isinstance(value, int | float) for value in task.values())
        for task in [*tasks, *(one for one in datasets.values() if not isinstance(one, Mapping))]
    )


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else []


def _task_tables(title: str, scores: Mapping[str, float | None]) -> str:
    """Mean scores as one row; scores of classes, called ``IoU-sky``, as a row for each class."""
    means = {name: value for name, value in scores.items() if "-" not in name}
    by_class: dict[str, dict[str, float | None]] = {}
    for name, value in scores.items():
        metric, dash, group = name.partition("-")
        if dash:
            by_class.setdefault(group, {})[metric] = value
    body = ""
    if means:
        body += table([["", *means], ["all", *map(_number, means.values())]], title=title)
    if by_class:
        metrics = list(dict.fromkeys(name for values in by_class.values() for name in values))
        rows = [
            [group, *(_number(values.get(name)) for name in metrics)]
            for group, values in by_class.items()
        ]
        inner = table([["class", *metrics], *rows], title=f"{title}, by class")
        body += f"<details><summary>By class ({len(rows)})</summary>{inner}</details>"
    return body


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
