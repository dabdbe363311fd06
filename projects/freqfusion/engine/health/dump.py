"""All that a step was computed from, in a file that is read without running code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from freqfusion.engine.health.plain_data import from_plain, to_plain
from freqfusion.files import read_checkpoint

_FORMAT = "freqfusion step 1"


@dataclass(frozen=True, slots=True)
class Dump:
    """One training step before it was computed.

    Attributes:
        iteration: Its number, from 0.
        rank: Of the process.
        config: The configuration, as YAML.
        weights: State dict of the model.
        parts: The batch, as it was split.
        randomness: Random states of the process.
        precision: "float32", or that of autocast.
        sentence: What was found.
    """

    iteration: int
    rank: int
    config: str
    weights: dict[str, torch.Tensor]
    parts: Sequence[Sequence[Any]]
    randomness: dict[str, Any]
    precision: str
    sentence: str

    def write(self, path: Path) -> None:
        """To a file, which is there as a whole or not at all."""
        names = [field.name for field in fields(self)]
        content = {name: getattr(self, name) for name in names}
        content["parts"] = to_plain(list(self.parts))
        content["weights"] = to_plain(dict(self.weights))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        try:
            torch.save({"format": _FORMAT, **content}, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def read_dump(path: str) -> Dump:
    """A dump from its file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none, is damaged, or could run code.
    """
    content = read_checkpoint(path)
    if content.pop("format", None) != _FORMAT:
        raise ValueError(f"{path} is no dump of a step, as SOLVER.NON_FINITE writes them")
    content["parts"] = from_plain(content["parts"])
    return Dump(**content)
