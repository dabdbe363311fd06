"""The declared matrix: experiments, their methods, seeds and data, read from a YAML file.

::

    methods       name: {title, config (another file), set: {KEY: value}, learning_rate_of (the
                  method whose chosen rate is taken: for a method with a part left out)}
    shared        {KEY: value} of every run
    learning_rate {factors, seed}: what ``--choose-lr`` tries
    smallest      {experiment, methods, seeds}: what ``--smallest`` runs
    experiments   name: {title, config, data, seeds, methods, metrics, pairs, set, dial,
                  learning_rates (the experiment whose choice is taken)}

``data`` are arguments of ``freqfusion.tools.synthesize``, or the name of a data set, which is then
looked for under ``DETECTRON2_DATASETS``; ``dial`` is one of them with a list of
values, each of which all methods and seeds run with. ``metrics`` are titles with paths in the
scores, such as ``panoptic_seg/PQ``; the first one judges learning rates. ``pairs`` are
[method, reference].
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from freqfusion.files import parse_yaml, read_yaml_text

DATA_ARGUMENTS = (
    "detail", "size", "num_train", "num_val", "num_tune", "seed", "line_thickness", "object_size",
    "texture_frequency", "contrast", "noise", "occlusion",
)  # fmt: skip
_PARTS = ("methods", "shared", "learning_rate", "smallest", "experiments")
_METHOD = ("title", "config", "set", "learning_rate_of")
_NEEDED = ("title", "config", "data", "seeds", "methods", "metrics", "pairs")
_EXPERIMENT = (*_NEEDED, "set", "dial", "learning_rates")


@dataclass(frozen=True)
class Method:
    """What is compared: keys of the configuration, perhaps in another file.

    ``learning_rate_of`` is the method whose learning rate is taken, mostly this one.
    """

    name: str
    title: str
    config: str | None
    overrides: Mapping[str, Any]
    learning_rate_of: str


@dataclass(frozen=True)
class Experiment:
    """Methods that are trained alike; see the module for what its parts mean."""

    name: str
    title: str
    config: str
    data: Mapping[str, Any]
    seeds: tuple[int, ...]
    methods: Mapping[str, Method]
    metrics: Mapping[str, str]
    pairs: tuple[tuple[str, str], ...]
    overrides: Mapping[str, Any]
    dial: str | None
    values: tuple[float, ...]
    learning_rates: str


@dataclass(frozen=True)
class Matrix:
    """All experiments, and what the options of the command line stand for."""

    path: Path
    experiments: Mapping[str, Experiment]
    factors: tuple[float, ...]
    tuning_seed: int
    smallest: tuple[str, tuple[str, ...], tuple[int, ...]]

    @property
    def root(self) -> Path:
        """The folder that configurations are named from: ``configs``."""
        return self.path.parent.parent


def read_matrix(path: Path) -> Matrix:
    """The matrix of a file.

    Raises:
        ValueError: for what is unknown, missing or of another kind, with what there is.
        OSError: if the file cannot be read.
    """
    tree = _mapping(parse_yaml(read_yaml_text(path), str(path)), str(path))
    known(tree, _PARTS, f"{path}: unknown part")
    methods = {
        name: _method(str(name), part, f"{path}, method {name}")
        for name, part in _mapping(tree.get("methods"), f"{path}: methods").items()
    }
    for method in methods.values():
        where = f"{path}, method {method.name}: learning_rate_of"
        known([method.learning_rate_of], methods, where)
    shared = _mapping(tree.get("shared", {}), f"{path}: shared")
    listed = _mapping(tree.get("experiments"), f"{path}: experiments")
    experiments = {
        str(name): _experiment(str(name), part, methods, shared, f"{path}, experiment {name}")
        for name, part in listed.items()
    }
    for one in experiments.values():
        known(
            [one.learning_rates], experiments, f"{path}, experiment {one.name}: learning_rates of"
        )
    tuning = _mapping(tree.get("learning_rate", {}), f"{path}: learning_rate")
    smallest = _mapping(tree.get("smallest", {}), f"{path}: smallest")
    return Matrix(
        path,
        experiments,
        tuple(float(factor) for factor in tuning.get("factors", (1.0,))),
        int(tuning.get("seed", 0)),
        _smallest(smallest, experiments, path),
    )


def known(names: Iterable[Any], allowed: Collection[str], what: str) -> None:
    """ValueError for a name that is not allowed, with the nearest one or all of them."""
    for name in names:
        if name not in allowed:
            near = get_close_matches(str(name), allowed, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(allowed)}"
            raise ValueError(f"{what} {name}; {hint}")


def _method(name: str, part: Any, where: str) -> Method:
    part = _mapping(part, where)
    known(part, _METHOD, f"{where}: unknown key")
    overrides = _mapping(part.get("set", {}), f"{where}: set")
    rate = str(part.get("learning_rate_of", name))
    return Method(name, str(part.get("title", name)), part.get("config"), overrides, rate)


def _experiment(
    name: str, part: Any, methods: Mapping[str, Method], shared: Mapping[str, Any], where: str
) -> Experiment:
    part = _mapping(part, where)
    known(part, _EXPERIMENT, f"{where}: unknown key")
    missing = [key for key in _NEEDED if key not in part]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}")
    chosen = _sequence(part["methods"], f"{where}: methods")
    known(chosen, methods, f"{where}: unknown method")
    pairs = [tuple(_sequence(pair, f"{where}: pairs")) for pair in part["pairs"]]
    for pair in pairs:
        known(pair, chosen, f"{where}: pairs: unknown method")
        if len(pair) != 2:
            raise ValueError(f"{where}: pairs are [method, reference], got {list(pair)}")
    data = part["data"]
    data = {"name": data} if isinstance(data, str) else _mapping(data, f"{where}: data")
    dial = _mapping(part.get("dial", {}), f"{where}: dial")
    arguments = [*dial] if "name" in data else [*data, *dial]
    known(arguments, DATA_ARGUMENTS, f"{where}: unknown argument of the data")
    if len(dial) > 1:
        raise ValueError(f"{where}: dial must name one argument, got {', '.join(dial)}")
    turned = next(iter(dial), None)
    return Experiment(
        name,
        str(part["title"]),
        str(part["config"]),
        data,
        _seeds(part["seeds"], f"{where}: seeds"),
        {name: methods[name] for name in chosen},
        _mapping(part["metrics"], f"{where}: metrics"),
        tuple((str(pair[0]), str(pair[1])) for pair in pairs),
        {**shared, **_mapping(part.get("set", {}), f"{where}: set")},
        turned,
        tuple(_sequence(dial[turned], f"{where}: dial")) if turned else (),
        str(part.get("learning_rates", name)),
    )


def _smallest(
    part: Mapping[str, Any], experiments: Mapping[str, Experiment], path: Path
) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    name = str(part.get("experiment", next(iter(experiments))))
    known([name], experiments, f"{path}: smallest: unknown experiment")
    methods = tuple(part.get("methods", experiments[name].methods))
    known(methods, experiments[name].methods, f"{path}: smallest: unknown method")
    return name, methods, tuple(part.get("seeds", experiments[name].seeds))


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be keys with values, got {value!r}")
    return value


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if not all(isinstance(seed, int) and seed >= 0 for seed in _sequence(value, where)):
        raise ValueError(f"{where} must be whole numbers, got {value!r}")
    return tuple(value)


def _sequence(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} must be a list that is not empty, got {value!r}")
    return value
