"""The declared matrix of experiments, read from a YAML file, and the runs that it stands for.

::

    methods       name: {title, set: {KEY: value}, learning_rate_of (the method whose chosen rate is
                  taken: for a method with a part left out)}
    shared        {KEY: value} of every run
    learning_rate {factors, seed}: what ``--choose-lr`` tries
    smallest      {experiment, methods, seeds}: what ``--smallest`` runs
    experiments   name: {title, config, data, methods, metrics, pairs, set, dial,
                  learning_rates (the experiment whose choice is taken)}
    questions     [{ask, experiment, pair, metric}]: what the page answers first

``config`` is a path below ``configs/``. ``data`` are arguments of ``freqfusion.tools.synthesize``,
or the name of a data set, which is then looked for under ``DETECTRON2_DATASETS``; ``dial`` is one
of them with a list of values, each of which all methods and seeds run with. ``methods`` are names
with the number of seeds, which count from 0. ``metrics`` are titles with paths in the scores, such
as ``panoptic_seg/PQ``; the first one judges learning rates. ``pairs`` are [method, reference].
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.documents import CHECKOUT, SCHEMA, read_json, write_json
from freqfusion.messages import did_you_mean

LEARNING_RATE = "SOLVER.BASE_LR"
LEARNING_RATES = "learning-rates.json"
_PARTS = ("methods", "shared", "learning_rate", "smallest", "experiments", "questions")
_METHOD = ("title", "set", "learning_rate_of")
_NEEDED = ("title", "config", "data", "methods", "metrics", "pairs")
_EXPERIMENT = (*_NEEDED, "set", "dial", "learning_rates")
_QUESTION = ("ask", "experiment", "pair", "metric")


@dataclass(frozen=True)
class Method:
    """What is compared: keys of the configuration.

    ``learning_rate_of`` is the method whose learning rate is taken, mostly this one.
    """

    name: str
    title: str
    overrides: Mapping[str, Any]
    learning_rate_of: str


@dataclass(frozen=True)
class Experiment:
    """Methods that are trained alike; see the module for what its parts mean.

    ``seeds`` is the number of seeds of each method.
    """

    name: str
    title: str
    config: str
    data: Mapping[str, Any]
    seeds: Mapping[str, int]
    methods: Mapping[str, Method]
    metrics: Mapping[str, str]
    pairs: tuple[tuple[str, str], ...]
    overrides: Mapping[str, Any]
    dial: str | None
    values: tuple[float, ...]
    learning_rates: str


@dataclass(frozen=True)
class Question:
    """What one difference of an experiment answers with yes or no."""

    ask: str
    experiment: str
    pair: tuple[str, str]
    metric: str


@dataclass(frozen=True)
class Matrix:
    """All experiments, the questions, and what the options of the command line stand for."""

    experiments: Mapping[str, Experiment]
    questions: tuple[Question, ...]
    factors: tuple[float, ...]
    tuning_seed: int
    smallest: tuple[str, tuple[str, ...], tuple[int, ...]]


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
        """Return the overrides as ``train_net.py`` accepts them."""
        return [
            text
            for key, value in self.overrides.items()
            for text in (key, value if isinstance(value, str) else repr(value))
        ]

    def is_done(self) -> bool:
        """Say whether there is a row of the same overrides and data."""
        if not self.row.is_file():
            return False
        row = read_json(self.row)
        return [row["overrides"], row["data"]] == [dict(self.overrides), dict(self.data)]

    def load_config(self) -> Any:
        """Return the configuration; ValueError if it has no such file, key or value."""
        from freqfusion.engine.setup import load_config

        try:
            return load_config(str(self.config), self.options())
        except ValueError as error:
            raise ValueError(
                f"experiment {self.experiment}, method {self.method}: {error}"
            ) from error

    def with_rate(self, factor: float, *, tuned: bool) -> Run:
        """Return the run with so many times the learning rate of its configuration."""
        rate = float(f"{factor * self.load_config().SOLVER.BASE_LR:.6g}")
        overrides = {**self.overrides, LEARNING_RATE: rate}
        return replace(self, overrides=overrides, factor=factor, tuned=tuned)


def read_matrix(path: Path) -> Matrix:
    """Return the matrix of a file.

    Raises:
        ValueError: for what is unknown, missing or of another kind, with what is allowed.
        OSError: if the file cannot be read.
    """
    try:
        tree = _mapping(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    _check_known(tree, _PARTS, f"{path}: unknown part")
    methods = {
        name: _method(str(name), part, f"{path}, method {name}")
        for name, part in _mapping(tree.get("methods"), f"{path}: methods").items()
    }
    for method in methods.values():
        where = f"{path}, method {method.name}: learning_rate_of"
        _check_known([method.learning_rate_of], methods, where)
    shared = _mapping(tree.get("shared", {}), f"{path}: shared")
    experiments = {
        str(name): _experiment(str(name), part, methods, shared, f"{path}, experiment {name}")
        for name, part in _mapping(tree.get("experiments"), f"{path}: experiments").items()
    }
    for one in experiments.values():
        where = f"{path}, experiment {one.name}: learning_rates of"
        _check_known([one.learning_rates], experiments, where)
    tuning = _mapping(tree.get("learning_rate", {}), f"{path}: learning_rate")
    smallest = _mapping(tree.get("smallest", {}), f"{path}: smallest")
    name = str(smallest.get("experiment", next(iter(experiments))))
    _check_known([name], experiments, f"{path}: smallest: unknown experiment")
    few = tuple(smallest.get("methods", experiments[name].methods))
    _check_known(few, experiments[name].methods, f"{path}: smallest: unknown method")
    return Matrix(
        experiments,
        tuple(
            _question(part, experiments, f"{path}, question {number}")
            for number, part in enumerate(tree.get("questions", []), 1)
        ),
        tuple(float(factor) for factor in tuning.get("factors", (1.0,))),
        int(tuning.get("seed", 0)),
        (name, few, tuple(smallest.get("seeds", (0,)))),
    )


def plan(
    matrix: Matrix,
    results: Path,
    only: Sequence[str] = (),
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> list[Run]:
    """Return the runs of some or all experiments, seed by seed, so that pairs are complete early.

    Raises:
        ValueError: for experiments and methods that the matrix does not have, for keys that the
            configuration does not have, and for learning rates that cannot be read.
    """
    found = []
    for experiment in _chosen(matrix, only, methods):
        chosen = [m for m in experiment.methods.values() if not methods or m.name in methods]
        path = results / experiment.learning_rates / LEARNING_RATES
        rates = read_json(path)["methods"] if path.is_file() else {}
        for value in experiment.values or (None,):
            for seed in seeds or range(max(experiment.seeds.values())):
                for method in chosen:
                    if not seeds and seed >= experiment.seeds[method.name]:
                        continue
                    run = _run(experiment, method, seed, value, results)
                    if method.learning_rate_of in rates:
                        factor = rates[method.learning_rate_of]["factor"]
                        run = run.with_rate(factor, tuned=True)
                    found.append(run)
    return found


def tuning_runs(
    matrix: Matrix, output: Path, only: Sequence[str] = (), methods: Sequence[str] = ()
) -> dict[str, list[Run]]:
    """Return for each experiment each method with each candidate learning rate.

    They are evaluated on a third split of the scenes; of other data sets, on the validation set.
    Experiments and methods that take the choice of another one have none of their own.
    """
    found: dict[str, list[Run]] = {}
    for experiment in _chosen(matrix, only, methods):
        if experiment.learning_rates != experiment.name:
            continue
        values = experiment.values
        middle = values[len(values) // 2] if values else None
        for method in experiment.methods.values():
            if (methods and method.name not in methods) or method.learning_rate_of != method.name:
                continue
            run = _run(experiment, method, matrix.tuning_seed, middle, output)
            test = run.load_config().DATASETS.TEST[0]
            tune = test.replace("_val", "_tune").replace("_test", "_val")
            run = replace(run, overrides={**run.overrides, "DATASETS.TEST": [tune]})
            for factor in matrix.factors:
                row = output / experiment.name / f"tune-{method.name}-x{factor:g}.json"
                trial = replace(run.with_rate(factor, tuned=False), row=row)
                found.setdefault(experiment.name, []).append(trial)
    return found


def check_configurations(runs: Iterable[Run]) -> None:
    """ValueError for a run whose configuration has no such file, key or value."""
    seen = set()
    for run in runs:
        key = run.config, str({**run.overrides, "SEED": None})
        if key not in seen:
            run.load_config()
        seen.add(key)


def choose_rates(trials: Iterable[Run], metric: str) -> dict[str, Any]:
    """Return by method the factor of the best score, its learning rate, and all scores.

    A trial without a row or without the score does not count; where two are equal the factor
    nearest to 1 is taken.
    """
    by_method: dict[str, list[tuple[Run, float | None]]] = {}
    for trial in trials:
        score = read_json(trial.row)["scores"].get(metric) if trial.row.is_file() else None
        by_method.setdefault(trial.method, []).append((trial, score))
    methods = {}
    for method, found in by_method.items():
        measured = [(score, -abs(run.factor - 1), run) for run, score in found if score is not None]
        if measured:
            best = max(measured, key=itemgetter(0, 1))[-1]
            methods[method] = {
                "scores": {f"{run.factor:g}": score for run, score in found},
                "factor": best.factor,
                "learning_rate": best.overrides[LEARNING_RATE],
            }
    return methods


def write_rates(
    results: Path, experiment: str, trials: Sequence[Run], metric: str
) -> Mapping[str, Any]:
    """Write the choice beside the rows; methods that were not tried now keep theirs."""
    path = results / experiment / LEARNING_RATES
    before = read_json(path)["methods"] if path.is_file() else {}
    methods = {**before, **choose_rates(trials, metric)}
    content = {
        "schema": SCHEMA,
        "experiment": experiment,
        "metric": metric,
        "seed": trials[0].seed,
        "data": dict(trials[0].data),
        "split": "tune",
        "methods": methods,
    }
    write_json(path, content)
    return methods


def _chosen(matrix: Matrix, only: Sequence[str], methods: Sequence[str]) -> Iterator[Experiment]:
    _check_known(only, matrix.experiments, "unknown experiment")
    chosen = [matrix.experiments[name] for name in only or matrix.experiments]
    everywhere = {name: None for experiment in chosen for name in experiment.methods}
    _check_known(methods, everywhere, "unknown method")
    yield from chosen


def _run(
    experiment: Experiment, method: Method, seed: int, value: float | None, folder: Path
) -> Run:
    dial = {} if value is None or experiment.dial is None else {experiment.dial: value}
    suffix = "".join(f"-{name}{value:g}" for name, value in dial.items())
    return Run(
        experiment.name,
        method.name,
        seed,
        CHECKOUT / "configs" / experiment.config,
        {**experiment.overrides, **method.overrides, "SEED": seed},
        {**experiment.data, **dial},
        folder / experiment.name / f"{method.name}-s{seed}{suffix}.json",
        dial,
    )


def _method(name: str, part: Any, where: str) -> Method:
    part = _mapping(part, where)
    _check_known(part, _METHOD, f"{where}: unknown key")
    overrides = _mapping(part.get("set", {}), f"{where}: set")
    rate = str(part.get("learning_rate_of", name))
    return Method(name, str(part.get("title", name)), overrides, rate)


def _experiment(
    name: str, part: Any, methods: Mapping[str, Method], shared: Mapping[str, Any], where: str
) -> Experiment:
    part = _mapping(part, where)
    _check_known(part, _EXPERIMENT, f"{where}: unknown key")
    missing = [key for key in _NEEDED if key not in part]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}")
    chosen = _mapping(part["methods"], f"{where}: methods")
    _check_known(chosen, methods, f"{where}: unknown method")
    for method, seeds in chosen.items():
        if type(seeds) is not int or seeds < 1:
            raise ValueError(f"{where}: {method} must have a number of seeds, got {seeds!r}")
    pairs = [tuple(_sequence(pair, f"{where}: pairs")) for pair in part["pairs"]]
    for pair in pairs:
        _check_known(pair, chosen, f"{where}: pairs: unknown method")
        if len(pair) != 2:
            raise ValueError(f"{where}: pairs are [method, reference], got {list(pair)}")
    data = part["data"]
    data = {"name": data} if isinstance(data, str) else _mapping(data, f"{where}: data")
    dial = _mapping(part.get("dial", {}), f"{where}: dial")
    if len(dial) > 1:
        raise ValueError(f"{where}: dial must name one argument, got {', '.join(dial)}")
    turned = next(iter(dial), None)
    return Experiment(
        name,
        str(part["title"]),
        str(part["config"]),
        data,
        chosen,
        {name: methods[name] for name in chosen},
        _mapping(part["metrics"], f"{where}: metrics"),
        tuple((str(pair[0]), str(pair[1])) for pair in pairs),
        {**shared, **_mapping(part.get("set", {}), f"{where}: set")},
        turned,
        tuple(_sequence(dial[turned], f"{where}: dial")) if turned else (),
        str(part.get("learning_rates", name)),
    )


def _question(part: Any, experiments: Mapping[str, Experiment], where: str) -> Question:
    part = _mapping(part, where)
    _check_known(part, _QUESTION, f"{where}: unknown key")
    missing = [key for key in _QUESTION if key not in part]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}")
    name = str(part["experiment"])
    _check_known([name], experiments, f"{where}: unknown experiment")
    experiment, pair = experiments[name], tuple(part["pair"])
    if pair not in experiment.pairs:
        raise ValueError(f"{where}: {list(pair)} is no pair of {name}")
    _check_known([part["metric"]], experiment.metrics, f"{where}: unknown metric")
    return Question(str(part["ask"]), name, pair, str(part["metric"]))


def _check_known(names: Iterable[Any], allowed: Collection[str], what: str) -> None:
    """ValueError for a name that is not allowed, with the nearest one or all of them."""
    for name in names:
        if name not in allowed:
            hint = did_you_mean(str(name), allowed) or f"; there are {', '.join(allowed)}"
            raise ValueError(f"{what} {name}{hint}")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be keys with values, got {value!r}")
    return value


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} must be a list that is not empty, got {value!r}")
    return value
