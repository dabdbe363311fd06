"""How fast images are trained on, and how long is waited for them."""

from __future__ import annotations

import time

from detectron2.engine import HookBase


class Rates(HookBase):
    """Write ``images_per_second`` of all processes, and ``data_share``, into the metrics.

    The share is the time that a step waited for its batch, as a part of the step; in several
    processes that of the one that waited longest.

    Args:
        batch: Number of images of all processes in a step.
    """

    def __init__(self, batch: int) -> None:
        self._batch, self._started = batch, 0.0

    def before_step(self) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def after_step(self) -> None:
        """Write both; a step that was skipped has no share."""
        storage = self.trainer.storage
        seconds = max(time.perf_counter() - self._started, 1e-9)
        storage.put_scalar("images_per_second", self._batch / seconds)
        written = storage.latest().get("data_time")
        if written and written[1] == self.trainer.iter:
            storage.put_scalar("data_share", min(written[0] / seconds, 1.0))
