"""Detectron2's writers, of which TensorBoard's cannot end a run."""

from __future__ import annotations

import logging
from collections.abc import Callable

from detectron2.engine import default_writers
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

logger = logging.getLogger(__name__)


class FailSafeWriter(EventWriter):
    """Runs another writer, and switches it off with a warning the first time that it fails."""

    def __init__(self, writer: EventWriter) -> None:
        self.writer, self._is_on = writer, True

    def write(self) -> None:
        """Write; without the writer forget images and histograms, which would pile up."""
        self._try(self.writer.write)
        if not self._is_on:
            storage = get_event_storage()
            storage.clear_images()
            storage.clear_histograms()

    def close(self) -> None:
        """Close what the writer has opened."""
        self._try(self.writer.close)

    def _try(self, act: Callable[[], object]) -> None:
        if not self._is_on:
            return
        try:
            act()
        except Exception as error:
            self._is_on = False
            hint = ": pip install tensorboard" if isinstance(error, ImportError) else ""
            logger.warning(
                "%s is switched off for this run, since it failed (%s: %s)%s",
                *(type(self.writer).__name__, type(error).__name__, error, hint),
            )


def build_writers(folder: str, max_iter: int) -> list[EventWriter]:
    """Return the writers of the log, of ``metrics.json`` and of TensorBoard files."""
    return [
        FailSafeWriter(writer) if isinstance(writer, TensorboardXWriter) else writer
        for writer in default_writers(folder, max_iter)
    ]
