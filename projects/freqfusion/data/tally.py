"""How many images of a data set were left out, which, and whether so many may be."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.utils import comm

logger = logging.getLogger(__name__)

REFUSE = "refuse"
SKIP = "skip"
_SHOWN = 20


class BadSampleError(ValueError):
    """An image, or its truth, cannot be used: one sentence that names the file."""

    @property
    def sentence(self) -> str:
        """The message, without the trace that a worker of a ``DataLoader`` puts before it."""
        line = str(self).strip().rpartition("\n")[2]
        return line.rpartition(f"{type(self).__name__}: ")[2]


@dataclass(frozen=True, slots=True)
class BadSample:
    """An image that was left out, and why; or one that was used, with a note on it."""

    file: str
    reason: str
    image_id: Any = None

    def __str__(self) -> str:
        return self.reason if self.file in self.reason else f"{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Policy:
    """What happens to images that cannot be used.

    ``name`` is "refuse" or "skip"; ``most`` is how many of a data set may be left out: below 1 a
    share of its images, rounded up, and from 1 on a number.
    """

    name: str = REFUSE
    most: float = 0.01

    def limit(self, images: int) -> int:
        """How many of so many images may be left out."""
        return int(self.most) if self.most >= 1 else math.ceil(self.most * images)


def too_many(skipped: Sequence[BadSample], images: int, policy: Policy) -> str:
    """More images are bad than the policy allows."""
    return (
        f"{len(skipped)} of the {images} images cannot be used, but DATALOADER.MAX_BAD_SAMPLES"
        f" {policy.most:g} allows {policy.limit(images)}; the last one: {skipped[-1]}"
        " (freqfusion.tools.check_dataset lists all such files)"
    )


@dataclass(slots=True)
class Tally:
    """What was left out of a data set, in this process; each file is named in the log once."""

    name: str
    images: int
    policy: Policy
    skipped: dict[str, BadSample] = field(default_factory=dict)
    replaced: int = 0
    notes: set[str] = field(default_factory=set)

    def skip(self, bad: BadSample) -> None:
        """Count one image; BadSampleError where there are more than the policy allows."""
        self.replaced += 1
        if bad.file in self.skipped:
            return
        self.skipped[bad.file] = bad
        logger.warning("%s: left out: %s", self.name, bad)
        self._check(self.skipped)

    def note(self, text: str) -> None:
        """Log a note on an image that was used."""
        if text not in self.notes:
            self.notes.add(text)
            logger.warning("%s: %s", self.name, text)

    def gathered(self) -> dict[str, BadSample]:
        """What all processes left out, by file; every process has to ask.

        BadSampleError, in every process, where these are too many together.
        """
        total: dict[str, BadSample] = {}
        for part in comm.all_gather(self.skipped):
            total |= part
        total = dict(sorted(total.items()))
        self._check(total)
        return total

    def state_dict(self) -> dict[str, Any]:
        """Of plain numbers and texts, for the checkpoint of this process."""
        return {
            "skipped": [[bad.file, bad.reason, bad.image_id] for bad in self.skipped.values()],
            "replaced": self.replaced,
            "notes": sorted(self.notes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add what a process of an interrupted run had counted."""
        self.skipped |= {file: BadSample(file, *rest) for file, *rest in state["skipped"]}
        self.replaced += state["replaced"]
        self.notes |= set(state["notes"])

    def _check(self, skipped: Mapping[str, BadSample]) -> None:
        if len(skipped) > self.policy.limit(self.images):
            raise BadSampleError(too_many(list(skipped.values()), self.images, self.policy))


def told(what: str, skipped: Mapping[str, BadSample]) -> str:
    """A line for the log: how many images were left out, and which."""
    names = list(skipped)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    images = "1 image was" if len(names) == 1 else f"{len(names)} images were"
    return f"{what}: {images} left out: {', '.join(names[:_SHOWN])}{more}"
