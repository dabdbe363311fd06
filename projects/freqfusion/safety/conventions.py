"""Where the projects keep the weights in their checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from freqfusion.safety.checkpoint import read_checkpoint

AUTHOR, HEURISTICS = "__author__", "matching_heuristics"
_CONVERT = "python -m freqfusion.tools.convert_checkpoint brings checkpoints from elsewhere here"


def read_for_detectron2(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What Detectron2's checkpointer loads: weights under ``"model"``, with what is beside them.

    As there, ``*.pkl`` is Detectron2's or else Caffe2's, ``*.pyth`` of pycls, and anything else
    without ``"model"`` is the weights themselves. Raises what ``read_checkpoint`` does.
    """
    path = Path(path)
    content = read_checkpoint(path)
    if path.suffix == ".pkl" and not {"model", AUTHOR} <= set(content):
        if "model" not in content:
            content = _from_caffe2(content)
    elif path.suffix == ".pyth":
        content = _from_pycls(content, path)
    elif "model" not in content:
        content = {"model": content}
    _check_weights(content["model"], path)
    return content


def module_versions(weights: Mapping[str, Any]) -> dict[str, int]:
    """Versions of the modules that a state dict is from, by their names, as far as it has them."""
    noted = getattr(weights, "_metadata", None)
    return {
        str(name): entry["version"]
        for name, entry in (noted.items() if isinstance(noted, dict) else ())
        if isinstance(entry, dict) and isinstance(entry.get("version"), int)
    }


def _from_caffe2(content: dict[str, Any]) -> dict[str, Any]:
    blobs = content["blobs"] if isinstance(content.get("blobs"), dict) else content
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, AUTHOR: "Caffe2", HEURISTICS: True}


def _from_pycls(content: dict[str, Any], path: Path) -> dict[str, Any]:
    weights = content.get("model_state")
    if not isinstance(weights, dict):
        raise ValueError(f"{path} has no 'model_state', which checkpoints of pycls (*.pyth) have")
    kept = {name: value for name, value in weights.items() if "num_batches_tracked" not in name}
    return {"model": kept, AUTHOR: "pycls", HEURISTICS: True}


def _check_weights(weights: Any, path: Path) -> None:
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path} has no weights under 'model'; {_CONVERT}")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path} has a {type(value).__name__} under {name!r} in place of a tensor;"
                f" {_CONVERT}"
            )
