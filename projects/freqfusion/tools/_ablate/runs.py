"""The runs that a matrix stands for: each with its configuration, its data and its row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from freqfusion.tools._ablate.matrix import Experiment, Matrix, Method, known
from freqfusion.tools._ablate.rows import LEARNING_RATES, read_learning_rates

LEARNING_RATE = "SOLVER.BASE_LR"


@dataclass(frozen=True)
class Run:
    """One training with its evaluation.

    ``config`` is a file; ``overrides`` are laid over it, the seed and the learning rate among them;
    ``factor`` times the configuration's learning rate was taken; ``row`` is where the result goes.
    """

    experiment: str
    method: str
    seed: int
    config: Path
    overrides: Mapping[str, Any]
    data: Mapping[str, Any]
    row: Path
    dial: Mapping[str, float]
    factor: float = 1.0
    tuned: bool = False

    @property
    def name(self) -> str:
        """For people, and unlike that of any other run."""
        return f"{self.experiment} {self.row.stem}"

    def options(self) -> list[str]:
        """The overrides as ``train_net.py`` takes them."""
        return [text for key, value in self.overrides.items() for text in (key, _written(value))]

    def fingerprint(self) -> str:
        """The same for the same experiment: the configuration's files and what is laid over them.

        A key that the project gets later, with its default, changes nothing.
        """
        from freqfusion.engine.config_file import read_config_file

        tree = read_config_file(str(self.config)).tree
        tree.pop("OUTPUT_DIR", None)
        content = [tree, dict(self.overrides), dict(self.data)]
        text = json.dumps(content, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan(
    matrix: Matrix,
    results: Path,
    only: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Run]:
    """The runs of some or all experiments, seed by seed, so that pairs are complete early.

    Raises:
        ValueError: for experiments and methods that the matrix does not have, for keys that the
            configuration does not have, and for learning rates that cannot be read.
    """
    found = []
    for experiment in _chosen(matrix, only, methods):
        chosen = [m for m in experiment.methods.values() if not methods or m.name in methods]
        rates = read_learning_rates(results / experiment.learning_rates / LEARNING_RATES)
        for value in experiment.values or (None,):
            for seed in seeds or experiment.seeds:
                for method in chosen:
                    run = _run(matrix, experiment, method, seed, value, results)
                    factor = rates.get(method.learning_rate_of)
                    found.append(run if factor is None else with_rate(run, factor, tuned=True))
    return found


def tuning_runs(
    matrix: Matrix,
    output: Path,
    only: Sequence[str] = (),
    methods: Sequence[str] = (),
) -> dict[str, list[Run]]:
    """For each experiment, each method with each candidate learning rate, on another split.

    Experiments and methods that take the choice of another one have none of their own.
    """
    found: dict[str, list[Run]] = {}
    for experiment in _chosen(matrix, only, methods):
        if experiment.learning_rates != experiment.name:
            continue
        values = experiment.values
        middle = values[len(values) // 2] if values else None
        for method in experiment.methods.values():
            if methods and method.name not in methods:
                continue
            if method.learning_rate_of != method.name:
                continue
            run = _run(matrix, experiment, method, matrix.tuning_seed, middle, output)
            tests = [_tuning_split(name) for name in _setting(run, "DATASETS", "TEST")[:1]]
            run = replace(run, overrides={**run.overrides, "DATASETS.TEST": tests})
            for factor in matrix.factors:
                row = output / experiment.name / f"tune-{method.name}-x{factor:g}.json"
                found.setdefault(experiment.name, []).append(
                    replace(with_rate(run, factor, tuned=False), row=row)
                )
    return found


def _tuning_split(name: str) -> str:
    """Return the data set to choose on: a third split of scenes, the validation of others."""
    return name.replace("_val", "_tune").replace("_test", "_val")


def with_rate(run: Run, factor: float, *, tuned: bool) -> Run:
    """The run with so many times the learning rate of its configuration."""
    rate = float(f"{factor * _setting(run, 'SOLVER', 'BASE_LR'):.6g}")
    overrides = {**run.overrides, LEARNING_RATE: rate}
    return replace(run, overrides=overrides, factor=factor, tuned=tuned)


def check(runs: Iterable[Run]) -> None:
    """ValueError for a run whose configuration has no such file, key or value."""
    from freqfusion.engine.setup import load_config

    seen = set()
    for run in runs:
        options = [text for key, text in _pairs(run.options()) if key != "SEED"]
        if (run.config, tuple(options)) in seen:
            continue
        seen.add((run.config, tuple(options)))
        try:
            load_config(str(run.config), run.options())
        except ValueError as error:
            raise ValueError(
                f"experiment {run.experiment}, method {run.method}: {error}"
            ) from error


def _chosen(matrix: Matrix, only: Sequence[str], methods: Sequence[str]) -> Iterator[Experiment]:
    known(only, matrix.experiments, "unknown experiment")
    chosen = [matrix.experiments[name] for name in only or matrix.experiments]
    everywhere = {name: None for experiment in chosen for name in experiment.methods}
    known(methods, everywhere, "unknown method")
    yield from chosen


def _run(
    matrix: Matrix,
    experiment: Experiment,
    method: Method,
    seed: int,
    value: float | None,
    folder: Path,
) -> Run:
    dial = {} if value is None or experiment.dial is None else {experiment.dial: value}
    suffix = "".join(f"-{name}{value:g}" for name, value in dial.items())
    return Run(
        experiment.name,
        method.name,
        seed,
        matrix.root / (method.config or experiment.config),
        {**experiment.overrides, **method.overrides, "SEED": seed},
        {**experiment.data, **dial},
        folder / experiment.name / f"{method.name}-s{seed}{suffix}.json",
        dial,
    )


def _setting(run: Run, *keys: str) -> Any:
    """What the run has for a key, learning rates and data sets of other choices aside."""
    from freqfusion.engine.setup import load_config

    try:
        node: Any = load_config(str(run.config), run.options())
    except ValueError as error:
        raise ValueError(f"experiment {run.experiment}, method {run.method}: {error}") from error
    for key in keys:
        node = node[key]
    return node


def _pairs(options: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(options[::2], options[1::2], strict=True)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
