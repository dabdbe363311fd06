"""Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections import defaultdict
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

_WINDOW = 20


class WandbWriter(EventWriter):
    """Log scalars and pictures to a run of W&B; its own variables (``WANDB_MODE``) are heeded.

    A resumed training goes on in the run of its output folder.

    Args:
        cfg: ``WANDB.PROJECT`` and ``WANDB.NAME`` name the run; all of it is its configuration.

    Raises:
        ImportError: without the package.
    """

    def __init__(self, cfg: CfgNode) -> None:
        import wandb
        import yaml

        self._wandb: Any = wandb
        folder = os.path.abspath(cfg.OUTPUT_DIR)
        self._run: Any = wandb.init(
            project=cfg.WANDB.PROJECT,
            name=cfg.WANDB.NAME or os.path.basename(folder),
            id=_identity(folder),
            resume="allow",
            dir=folder,
            config=yaml.safe_load(cfg.dump()),
        )
        self._last = -1

    def write(self) -> None:
        """Log what is new, iteration by iteration."""
        storage = get_event_storage()
        new: dict[int, dict[str, Any]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(_WINDOW).items():
            if iteration > self._last:
                new[iteration][name] = value
        for name, picture, iteration in storage._vis_data:
            # Steps of W&B only grow: a picture of an older one goes with the newest.
            at = iteration if iteration > self._last else max(new, default=self._last + 1)
            new[at][name] = self._wandb.Image(picture.transpose(1, 2, 0))
        for iteration in sorted(new):
            self._run.log(new[iteration], step=iteration)
        self._last = max(new, default=self._last)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def _identity(folder: str) -> str:
    """An identity that is kept in the output folder; a new one where there is none."""
    path = os.path.join(folder, "wandb_id.txt")
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    identity = uuid.uuid4().hex[:16]
    with open(path, "w", encoding="utf-8") as file:
        file.write(identity)
    return identity
