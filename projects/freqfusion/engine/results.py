"""``results.json``: what a run scored, in one file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from freqfusion import __version__

FILE = "results.json"
TRAINING = "training"


def write_results(
    cfg: CfgNode,
    results: Mapping[str, Any],
    *,
    iteration: int | None,
    config_file: str = "",
    weights: str | None = None,
    skipped: Mapping[str, Mapping[str, object]] | None = None,
) -> None:
    """Write the scores of an evaluation to the output folder, whole or not at all.

    Only the main process writes. What is nan or infinite, which JSON does not know, becomes null.

    Args:
        cfg: The configuration of the run.
        results: What ``Trainer.test`` returned.
        iteration: Finished iterations of training; None where they are not known.
        config_file: The file that the configuration was read from.
        weights: What was evaluated or, in training, started from; ``MODEL.WEIGHTS`` unless given.
        skipped: Images that were left out, and why, by data set and file; for training under
            ``TRAINING``. Written as ``images_skipped``, where there are any.
    """
    if not comm.is_main_process():
        return
    content = {
        "freqfusion": __version__,
        "config": config_file or None,
        "weights": (cfg.MODEL.WEIGHTS if weights is None else weights) or None,
        "iteration": iteration,
        "datasets": _finite(by_dataset(cfg, results)),
        "images_skipped": {
            name: {file: str(why) for file, why in files.items()}
            for name, files in (skipped or {}).items()
            if files
        },
    }
    path = Path(cfg.OUTPUT_DIR) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{FILE}.part")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def by_dataset(cfg: CfgNode, results: Mapping[str, Any]) -> dict[str, Any]:
    """The scores by data set and task; Detectron2 leaves the data set out where there is one."""
    names = list(cfg.DATASETS.TEST)
    return {names[0]: dict(results)} if len(names) == 1 else dict(results)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None
