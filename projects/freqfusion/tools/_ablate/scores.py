"""The scores of rows, gathered by what the tables and figures ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from freqfusion.tools._ablate.matrix import Experiment
from freqfusion.tools._ablate.statistics import Estimate, estimate, paired

# Score by seed.
Seeds = dict[int, float]


class Scores:
    """The rows of one experiment: by method, value of the dial and path of the score.

    Rows of methods, seeds and values that the experiment does not declare do not count.
    """

    def __init__(self, experiment: Experiment, rows: Iterable[Mapping[str, Any]]) -> None:
        self.experiment = experiment
        self.rows = [row for row in rows if _belongs(experiment, row)]

    def seeds(self, method: str, path: str, value: float | None = None) -> Seeds:
        """Score by seed; what was not measured is left out."""
        return {
            row["seed"]: row["scores"][path]
            for row in self.rows
            if row["method"] == method
            and _value(self.experiment, row) == value
            and row["scores"].get(path) is not None
        }

    def mean(self, method: str, path: str, value: float | None = None) -> Estimate | None:
        """Mean over the seeds."""
        return estimate(list(self.seeds(method, path, value).values()))

    def gain(self, pair: tuple[str, str], path: str, value: float | None = None) -> Estimate | None:
        """Paired difference, the method minus its reference."""
        return paired(self.seeds(pair[0], path, value), self.seeds(pair[1], path, value))

    def fact(self, method: str, name: str) -> float | None:
        """Mean over the rows of a number that is no score, such as ``step_seconds``."""
        found = [row[name] for row in self.rows if row["method"] == method and row[name]]
        return sum(found) / len(found) if found else None

    def rates(self, method: str) -> list[float]:
        """The factors of the learning rate that its rows were trained with."""
        return sorted({r["learning_rate"]["factor"] for r in self.rows if r["method"] == method})


def _belongs(experiment: Experiment, row: Mapping[str, Any]) -> bool:
    return (
        row["experiment"] == experiment.name
        and row["method"] in experiment.methods
        and row["seed"] in experiment.seeds
        and _value(experiment, row) in (experiment.values or (None,))
    )


def _value(experiment: Experiment, row: Mapping[str, Any]) -> float | None:
    value: float | None = row["dial"].get(experiment.dial) if experiment.dial else None
    return value
