"""Results of runs as files: one JSON row each, and the chosen learning rates of an experiment.

A row has ``experiment``, ``method``, ``seed``, ``dial``, ``config_file``, ``overrides``, ``data``,
``learning_rate``, ``fingerprint``, ``scores`` ("<task>/<score>": number or null), ``seconds`` (the
whole process), ``step_seconds`` (median of training steps), ``parameters``, ``device``,
``versions`` and ``revision``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freqfusion.files import write_whole

SCHEMA = 1
LEARNING_RATES = "learning-rates.json"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all, and the folder that it lies in."""
    write_whole(path, json.dumps(_rounded(content), indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file; ValueError, with what to do, where it is none of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and run again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no result of schema {SCHEMA}; delete it and run again")
    return content


def is_done(path: Path, fingerprint: str) -> bool:
    """Whether there is a row of the same experiment."""
    return path.is_file() and read_json(path).get("fingerprint") == fingerprint


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """All rows under a folder, in the order of their paths."""
    paths = sorted(folder.rglob("*.json"))
    return [read_json(path) for path in paths if path.name != LEARNING_RATES]


def read_learning_rates(path: Path) -> dict[str, float]:
    """Method to the factor that was chosen; {} where nothing was."""
    if not path.is_file():
        return {}
    return {name: part["factor"] for name, part in read_json(path)["methods"].items()}


def _rounded(value: Any) -> Any:
    """Numbers with seven digits, and null for what is none."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value
