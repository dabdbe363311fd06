"""Choose the learning rate of each method on the third split of the scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from freqfusion.tools._ablate.rows import LEARNING_RATES, SCHEMA, read_json, write_json
from freqfusion.tools._ablate.runs import LEARNING_RATE, Run


def choose(trials: Iterable[Run], metric: str) -> dict[str, Any]:
    """By method: the factor of the best score, its learning rate, and all scores.

    A trial without a row or without the score does not count; where two are equal the factor
    nearest to 1 is taken.
    """
    methods: dict[str, dict[str, Any]] = {}
    rates: dict[tuple[str, float], float] = {}
    for trial in trials:
        scores = methods.setdefault(trial.method, {"scores": {}})["scores"]
        score = read_json(trial.row)["scores"].get(metric) if trial.row.is_file() else None
        scores[f"{trial.factor:g}"] = score
        rates[trial.method, trial.factor] = trial.overrides[LEARNING_RATE]
    for method in list(methods):
        found = {float(f): s for f, s in methods[method]["scores"].items() if s is not None}
        if not found:
            del methods[method]
            continue
        best = max(found, key=lambda factor: (found[factor], -abs(factor - 1)))
        methods[method] |= {"factor": best, "learning_rate": rates[method, best]}
    return methods


def write_choice(
    results: Path, experiment: str, trials: list[Run], metric: str
) -> Mapping[str, Any]:
    """Write the choice beside the rows; methods that were not tried now keep theirs."""
    path = results / experiment / LEARNING_RATES
    before = read_json(path)["methods"] if path.is_file() else {}
    methods = {**before, **choose(trials, metric)}
    write_json(
        path,
        {
            "schema": SCHEMA,
            "experiment": experiment,
            "metric": metric,
            "seed": trials[0].seed,
            "data": dict(trials[0].data),
            "split": "tune",
            "methods": methods,
        },
    )
    return methods
