"""Where processes tell one another what went wrong before they work together."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from freqfusion.engine.launch.place import Place

TIMEOUT = timedelta(minutes=30)
_PATIENCE = 0.5  # seconds for a process to write a sentence
_FAREWELL = 30.0  # seconds for the others to read, before the process that keeps the store ends


class Finding(NamedTuple):
    """What one machine found: an exit code, a sentence for the user, the device that it has."""

    code: int
    sentence: str
    device: str


class Meeting:
    """The store that all processes of a run share, before and beside their process group.

    Made in all of them together; rank 0 (or ``torchrun``) keeps it.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        found = next(
            rendezvous(place.url, place.rank, place.world_size, timeout=TIMEOUT)
            if place.url != "env://"
            else rendezvous(place.url, timeout=TIMEOUT)
        )
        self.store: Store = found[0]

    def claim(self) -> bool:
        """Whether this process is the first to ask: it may speak for all."""
        try:
            if self.store.add("claims", 1) == 1:
                return True
        except RuntimeError:  # the process that keeps the store has ended, hence has spoken
            return False
        # When this one ends, all are ended: not before the first has spoken.
        time.sleep(_PATIENCE)
        return False

    def agree(self, check: Callable[[], Finding], tell: Callable[[str], object]) -> Finding:
        """Let the first process of each machine check, and give all of them the same finding.

        That of the first machine with a problem, or that of the first machine. Rank 0 hands its
        sentence to ``tell`` before any process returns, since the first that ends may end all. An
        error that is no finding goes on in its process, and gives the others code 1.
        """
        place = self.place
        if place.local_rank == 0:
            finding = Finding(1, "", "")
            try:
                finding = check()
            finally:
                self.store.set(f"check/{place.machine}", json.dumps(finding))
        found = [
            Finding(*json.loads(self.store.get(f"check/{machine}")))
            for machine in range(place.machines)
        ]
        devices = {one.device for one in found}
        result = next((one for one in found if one.code), found[0])
        if not result.code and len(devices) > 1:
            sentence = f"some machines run on {' and others on '.join(sorted(devices))}"
            result = Finding(2, f"{sentence}: set MODEL.DEVICE cpu, or give all of them GPUs", "")
        if result.sentence:
            self._tell_all(lambda: tell(result.sentence))
        return result

    def _tell_all(self, tell: Callable[[], object]) -> None:
        """Rank 0 tells, and keeps the store until the others know that it has."""
        if self.place.rank == 0:
            tell()
            self.store.set("told", "")
        else:
            self.store.get("told")
        count = self.store.add("read", 1)
        until = time.monotonic() + _FAREWELL
        while self.place.rank == 0 and count < self.place.world_size and time.monotonic() < until:
            time.sleep(0.02)
            count = self.store.add("read", 0)
