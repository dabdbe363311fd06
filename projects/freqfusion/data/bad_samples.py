"""Images that cannot be used, met while a model is trained or evaluated: refused, or left out.

A worker reports what it left out to the process that trains with the sample that replaced it,
where it is counted: no file and no lock is needed, and nothing counts that was only
loaded ahead.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.utils.data import Dataset

from freqfusion.data.reading import in_words
from freqfusion.data.validation.annotations import check_entry
from freqfusion.messages import shorten

logger = logging.getLogger(__name__)

REFUSE = "refuse"
SKIP = "skip"
_SHOWN = 20


class BadSampleError(ValueError):
    """An image, or its ground truth, cannot be used: one sentence that names the file."""


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
        """Return how many of so many images may be left out."""
        return int(self.most) if self.most >= 1 else math.ceil(self.most * images)


def too_many(skipped: Sequence[BadSample], images: int, policy: Policy) -> str:
    """Return the sentence for more bad images than the policy allows."""
    return (
        f"{len(skipped)} of the {images} images cannot be used, but DATALOADER.MAX_BAD_SAMPLES"
        f" {policy.most:g} allows {policy.limit(images)}; the last one: {skipped[-1]}"
        " (freqfusion.tools.check_dataset lists all such files)"
    )


@dataclass(slots=True)
class SkippedImages:
    """What was left out of a data set, in this process; each file is named in the log once."""

    name: str
    images: int
    policy: Policy
    skipped: dict[str, BadSample] = field(default_factory=dict)
    notes: set[str] = field(default_factory=set)

    def skip(self, bad: BadSample) -> None:
        """Count one image; BadSampleError where there are more than the policy allows."""
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
        """Return what all processes left out, by file; every process has to call it.

        BadSampleError, in every process, where these are too many together.
        """
        total: dict[str, BadSample] = {}
        for part in comm.all_gather(self.skipped):
            total |= part
        total = dict(sorted(total.items()))
        self._check(total)
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and texts for the checkpoint of this process."""
        return {
            "skipped": [[bad.file, bad.reason, bad.image_id] for bad in self.skipped.values()],
            "notes": sorted(self.notes),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add what a process of an interrupted run had counted."""
        self.skipped |= {file: BadSample(file, *rest) for file, *rest in state["skipped"]}
        self.notes |= set(state["notes"])

    def _check(self, skipped: Mapping[str, BadSample]) -> None:
        if len(skipped) > self.policy.limit(self.images):
            raise BadSampleError(too_many(list(skipped.values()), self.images, self.policy))


def skipped_summary(what: str, skipped: Mapping[str, BadSample]) -> str:
    """Return a line for the log: how many images were left out, and which."""
    names = list(skipped)
    images = "1 image was" if len(names) == 1 else f"{len(names)} images were"
    return f"{what}: {images} left out: {shorten(names, _SHOWN)}"


NOTES = "notes_on_the_sample"
_SKIPPED = "skipped_before_the_sample"

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def policy_of(cfg: CfgNode) -> Policy:
    """Return the policy of ``DATALOADER.BAD_SAMPLES`` and ``DATALOADER.MAX_BAD_SAMPLES``."""
    return Policy(cfg.DATALOADER.BAD_SAMPLES, float(cfg.DATALOADER.MAX_BAD_SAMPLES))


class CheckedSamples(Dataset[Any]):
    """Images through a mapper; what cannot be used is refused, or the next good one is taken.

    Without a bad image the samples, and the random numbers that the mapper draws, are those of the
    mapper alone. A refusal is returned as a BadSampleError, which ``CountedBatches`` raises: a
    worker that raises takes seconds to end. An error that is no ValueError or OSError is a defect,
    and passes.

    Args:
        entries: Dicts of a data set.
        mapper: Makes of a dict what a model accepts.
        policy: Refuse or skip.
        replace: The next good image replaces a bad one (training), which depends on
            nothing but its index; otherwise the item is the ``BadSample`` itself.
        check_gt: Looks at the ground truth that an evaluator will read; ValueError where it is
            wrong.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]] | Dataset[Any],
        mapper: Mapper,
        policy: Policy,
        *,
        replace: bool,
        check_gt: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._entries: Any = entries
        self._mapper, self._policy, self._replace = mapper, policy, replace
        self._check_gt = check_gt

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Any:
        skipped: list[BadSample] = []
        count = len(self)
        for at in range(index, index + count):
            found = self._load(self._entries[at % count])
            if isinstance(found, BadSampleError):
                return found
            if not isinstance(found, BadSample):
                return found | {_SKIPPED: tuple(skipped)} if skipped else found
            if not self._replace:
                return found
            skipped.append(found)
            if len(skipped) > self._policy.limit(count):
                break
        return BadSampleError(too_many(skipped, count, self._policy))

    def _load(self, entry: Mapping[str, Any]) -> Any:
        try:
            notes = check_entry(entry)
            sample = self._mapper(dict(entry))
            if self._check_gt is not None:
                self._check_gt(sample)
        except (ValueError, OSError) as error:
            file = str(entry.get("file_name", f"image {entry.get('image_id')!r}"))
            bad = BadSample(file, in_words(error), entry.get("image_id"))
            return BadSampleError(f"{bad} ({_ADVICE})") if self._policy.name == REFUSE else bad
        notes = [str(BadSample(entry["file_name"], note)) for note in notes]
        notes += sample.pop(NOTES, ())
        return sample | {NOTES: tuple(notes)} if notes else sample


_ADVICE = (
    "mend or remove it, or set DATALOADER.BAD_SAMPLES skip; freqfusion.tools.check_dataset lists"
    " all such files"
)


class CountedBatches:
    """Batches of ``CheckedSamples``; images that were left out are counted in ``skipped_images``.

    A batch of which nothing is left does not come.
    """

    def __init__(self, batches: Any, skipped_images: SkippedImages) -> None:
        self.batches, self.skipped_images = batches, skipped_images

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self.batches:
            kept = [sample for sample in batch if self._count(sample)]
            if kept:
                yield kept

    def state_dict(self) -> dict[str, Any]:
        """Return the position of a ``TrainingLoader``."""
        state: dict[str, Any] = self.batches.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have a ``TrainingLoader`` go on."""
        self.batches.load_state_dict(state)

    def _count(self, sample: Any) -> bool:
        if isinstance(sample, BadSampleError):
            raise sample
        if isinstance(sample, BadSample):
            self.skipped_images.skip(sample)
            return False
        for bad in sample.pop(_SKIPPED, ()):
            self.skipped_images.skip(bad)
        for text in sample.pop(NOTES, ()):
            self.skipped_images.note(text)
        return True


def skipped_images_of(loader: Any) -> SkippedImages:
    """Return what counts a loader's bad images; for a loader of a subclass, an empty counter."""
    if isinstance(loader, CountedBatches):
        return loader.skipped_images
    return SkippedImages("training", 0, Policy())
