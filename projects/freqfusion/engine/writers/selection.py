"""Writers by the names that a configuration gives."""

from __future__ import annotations

import os
from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
)

from freqfusion.engine.writers.harmless import HarmlessWriter, LastWriter
from freqfusion.engine.writers.wandb import WandbWriter


def build_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Log and ``metrics.json``, and those of ``WRITERS``, which cannot stop a run."""
    folder = cfg.OUTPUT_DIR
    os.makedirs(folder, exist_ok=True)
    makers: dict[str, Callable[[], EventWriter]] = {
        "tensorboard": lambda: TensorboardXWriter(folder),
        "wandb": lambda: WandbWriter(cfg),
    }
    # TensorBoard's takes the pictures away from the storage, so it comes last.
    names = sorted(set(cfg.WRITERS), key=lambda name: (name == "tensorboard", name))
    optional = [HarmlessWriter(name, makers[name]) for name in names]
    path = os.path.join(folder, "metrics.json")
    return [CommonMetricPrinter(max_iter), JSONWriter(path), *optional, LastWriter()]
