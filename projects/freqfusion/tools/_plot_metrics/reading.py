"""The metrics that Detectron2 writes while it trains: lines of JSON, each with an iteration."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FILE_NAME = "metrics.json"
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """Values of one metric in the order of the iterations; nan where it was not a number."""

    iterations: FloatArray
    values: FloatArray


@dataclass(frozen=True)
class Run:
    """One training run: its name, and its metrics by theirs."""

    name: str
    series: dict[str, Series]


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """Runs from output folders or their ``metrics.json``, named so that they differ.

    Raises:
        ValueError: if a file is missing or has no line that can be read.
    """
    files = [path / FILE_NAME if path.is_dir() else path for path in paths]
    names = run_names(files)
    return [Run(name, read_series(file)) for name, file in zip(names, files, strict=True)]


def read_series(file: Path) -> dict[str, Series]:
    """Every metric of a file.

    Lines that cannot be read, such as one that a killed run left unfinished, are left out. Where
    the iteration falls back, the run was resumed: what was written from there on is replaced.
    """
    if not file.is_file():
        raise ValueError(
            f"there is no {file}; name an output folder of train_net.py or its {FILE_NAME}"
        )
    records, broken = _records(file.read_text(encoding="utf-8", errors="replace").splitlines())
    if not records:
        raise ValueError(
            f"{file} has no line with metrics; Detectron2 writes JSON lines with an 'iteration'"
        )
    if broken:
        logger.warning("%s: %d lines cannot be read and are left out", file, broken)
    return series_of(records)


def series_of(records: Iterable[dict[str, Any]]) -> dict[str, Series]:
    """Metrics of records in the order in which they were written."""
    kept: dict[int, dict[str, float]] = {}
    for record in records:
        iteration = int(record["iteration"])
        if kept and iteration <= max(kept):
            kept = {at: values for at, values in kept.items() if at < iteration}
        kept[iteration] = {
            name: float(value)
            for name, value in record.items()
            if name != "iteration" and _is_number(value)
        }
    names = dict.fromkeys(name for values in kept.values() for name in values)
    return {name: _series(name, kept) for name in names}


def run_names(files: Iterable[Path]) -> list[str]:
    """Of each file the shortest end of its folder that tells it from the others."""
    parts = [file.resolve().parent.parts for file in files]
    if len(set(parts)) < len(parts):
        return [str(file) for file in files]
    names = []
    for own in parts:
        length = 1
        while sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _records(lines: Iterable[str]) -> tuple[list[dict[str, Any]], int]:
    records, broken = [], 0
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict) and _is_number(record.get("iteration")):
            records.append(record)
        else:
            broken += 1
    return records, broken


def _series(name: str, kept: dict[int, dict[str, float]]) -> Series:
    points = [(at, values[name]) for at, values in kept.items() if name in values]
    iterations, values = np.array(points, dtype=np.float64).T
    return Series(iterations, values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
