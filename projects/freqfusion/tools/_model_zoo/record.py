"""The file of what was measured.

::

    schema    1
    rows      a dict for each configuration:
                  config       path below configs/
                  parameters   of the model; trainable: those of them that it learns
                  size         height and width of the image for what follows
                  flops        of inference; a multiply-add counts once
                  kept_bytes   what a training step on one image keeps for gradients, float32
                  time         inference against the baseline: see ``timing.compare``

A number that was not measured is null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freqfusion.files import write_whole
from freqfusion.tools._model_zoo.catalogue import Recipe

SCHEMA = 1
FILE = Path("results/model-zoo.json")
EMPTY = dict.fromkeys(("parameters", "trainable", "size", "flops", "kept_bytes", "time"))
Rows = dict[str, dict[str, Any]]


def read_rows(file: Path) -> Rows:
    """Name of each configuration to its numbers; none if there is no file.

    Raises:
        ValueError: for a file that is no such record, or one of another schema.
    """
    if not file.is_file():
        return {}
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        schema, rows = record["schema"], {row["config"]: EMPTY | row for row in record["rows"]}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} is not a record of the model zoo ({error}); move it away and measure anew"
        ) from error
    if schema != SCHEMA:
        raise ValueError(f"{file} has schema {schema}, not {SCHEMA}; measure anew")
    return rows


def write_rows(file: Path, rows: Rows, order: list[Recipe]) -> None:
    """Write the rows of configurations that exist, at once, so that a stop leaves a whole file."""
    listed = [
        {"config": recipe.name, **rows[recipe.name]} for recipe in order if recipe.name in rows
    ]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in listed)
    write_whole(file, f'{{\n "schema": {SCHEMA},\n "rows": [\n{lines}\n ]\n}}\n')


def updated(rows: Rows, name: str, numbers: Mapping[str, Any]) -> Rows:
    """The rows with more numbers of one configuration.

    At another size all that was measured at the old one is dropped.
    """
    row = {"config": name, **EMPTY, **rows.get(name, {})}
    if row["size"] not in (None, numbers["size"]):
        row |= {"flops": None, "kept_bytes": None, "time": None}
    return rows | {name: row | dict(numbers)}
