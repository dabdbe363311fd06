"""The file of measurements.

::

    schema    1
    machine   architecture, system and torch
    runs      counted runs of the last call
    rows      comparisons: suite, case, size, threads, reference, ours_ms and reference_ms (one
              number per run), speedup and speedup_quartiles, *_extra_bytes, floor_bytes,
              floor_operations, copy_gb_per_s, achieved_gb_per_s (floor bytes in our time)
    sizes     our form at image sizes: suite, case, image, threads, memory_kept (the allocator had
              been told to, see docs/performance.md), ours_ms, ns_per_pixel, the last four of above

A number that was not measured is null.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

SCHEMA = 1
_SAME = {
    "rows": ("suite", "case", "size", "threads"),
    "sizes": ("suite", "case", "image", "threads", "memory_kept"),
}


def machine() -> str:
    """Architecture, system and version of torch."""
    return f"{platform.machine()} {platform.system()}, torch {torch.__version__}"


def new_record(runs: int) -> dict[str, Any]:
    """A record without rows."""
    return {"schema": SCHEMA, "machine": machine(), "runs": runs, "rows": [], "sizes": []}


def read_record(path: Path) -> dict[str, Any]:
    """A record from its file; ValueError for another schema."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if record.get("schema") != SCHEMA:
        raise ValueError(f"{path} has schema {record.get('schema')}, not {SCHEMA}; measure anew")
    return record


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new record with the rows of the old one that have not been measured again."""
    result = dict(new)
    for part, keys in _SAME.items():
        rows = {tuple(row[key] for key in keys): row for row in [*old[part], *new[part]]}
        result[part] = list(rows.values())
    return result


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(record), indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Numbers with five digits; more are noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value
