"""Writers that may fail without harm."""

from __future__ import annotations

import logging
from collections.abc import Callable

from detectron2.utils.events import EventWriter, get_event_storage

logger = logging.getLogger(__name__)


class HarmlessWriter(EventWriter):
    """Another writer, which is switched off with a warning the first time that it fails.

    Args:
        name: Of the writer in ``WRITERS``.
        make: Makes it; called when something is to be written for the first time.
    """

    def __init__(self, name: str, make: Callable[[], EventWriter]) -> None:
        self._name, self._make = name, make
        self._writer: EventWriter | None = None
        self._off = False

    def write(self) -> None:
        """Have it write."""
        self._try(lambda writer: writer.write())

    def close(self) -> None:
        """Have it close what it has opened."""
        if self._writer is not None:
            self._try(lambda writer: writer.close())

    def _try(self, act: Callable[[EventWriter], object]) -> None:
        if self._off:
            return
        try:
            if self._writer is None:
                self._writer = self._make()
            act(self._writer)
        # Some libraries end the program where they cannot log in.
        except (Exception, SystemExit) as error:
            self._off = True
            hint = f": pip install {self._name}" if isinstance(error, ImportError) else ""
            logger.warning(
                "the writer %s of WRITERS is switched off for this run, since it failed (%s: %s)%s",
                *(self._name, type(error).__name__, error, hint),
            )


class LastWriter(EventWriter):
    """Forgets the pictures and histograms of the storage, which would pile up otherwise."""

    def write(self) -> None:
        """Forget them."""
        storage = get_event_storage()
        storage.clear_images()
        storage.clear_histograms()
