"""What a run has written about its iterations, when it goes on from an earlier one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils.events import TensorboardXWriter

_FILE = "metrics.json"


def cut_curves(folder: str, start: int, hooks: Iterable[Any]) -> None:
    """Forget what was written about iteration ``start`` and later ones, which come again.

    ``metrics.json`` is cut off, also where a line is not whole; TensorBoard is told to do so.
    """
    path = Path(folder) / _FILE
    if path.is_file():
        kept = sum(len(line) for line, _ in _lines(path, start))
        # The writer has the file open already: it stays the same file.
        with open(path, "r+b") as file:
            file.truncate(kept)
    for hook in hooks:
        if isinstance(hook, PeriodicWriter):
            for writer in hook._writers:
                wrapped = getattr(writer, "writer", writer)
                if isinstance(wrapped, TensorboardXWriter):
                    wrapped._writer_args["purge_step"] = start


def has_scores(folder: str, iteration: int) -> bool:
    """Whether the scores of an evaluation behind this iteration were written."""
    path = Path(folder) / _FILE
    return path.is_file() and any(
        values["iteration"] == iteration and any("/" in name for name in values)
        for _, values in _lines(path, iteration + 1)
    )


def _lines(path: Path, start: int) -> Iterable[tuple[bytes, dict[str, Any]]]:
    """Lines up to the first that is not whole or is about iteration ``start`` or a later one."""
    with open(path, "rb") as file:
        for line in file:
            try:
                values = json.loads(line)
            except ValueError:
                return
            if not line.endswith(b"\n") or values.get("iteration", start) >= start:
                return
            yield line, values
