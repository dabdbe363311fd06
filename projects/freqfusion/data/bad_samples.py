"""Images that cannot be used, met while a model is trained or evaluated: refused, or left out.

What is left out is told from the worker that met it to the process that trains by the sample that
took its place, and counted there: no file and no lock is needed, and nothing counts that was only
loaded ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch.utils.data import Dataset

from freqfusion.data.reading import in_words
from freqfusion.data.tally import REFUSE, BadSample, BadSampleError, Policy, Tally, too_many
from freqfusion.data.validation.annotations import check_entry

NOTES = "notes_on_the_sample"
_SKIPPED = "skipped_before_the_sample"

Mapper = Callable[[dict[str, Any]], dict[str, Any]]


def policy_of(cfg: CfgNode) -> Policy:
    """``DATALOADER.BAD_SAMPLES`` and ``DATALOADER.MAX_BAD_SAMPLES``."""
    return Policy(cfg.DATALOADER.BAD_SAMPLES, float(cfg.DATALOADER.MAX_BAD_SAMPLES))


class CheckedSamples(Dataset[Any]):
    """Images through a mapper; what cannot be used is refused, or the next good one is taken.

    Without a bad image the samples, and the random numbers that the mapper draws, are those of the
    mapper alone. An error that is no ValueError or OSError is a defect, and passes.

    Args:
        entries: Dicts of a data set.
        mapper: From a dict to what a model takes.
        policy: Refuse or skip.
        replace: The next good image takes the place of a bad one (training), which depends on
            nothing but its index; otherwise the item is the ``BadSample`` itself.
        check_truth: Looks at the truth that an evaluator will read; ValueError for what is wrong.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]] | Dataset[Any],
        mapper: Mapper,
        policy: Policy,
        *,
        replace: bool,
        check_truth: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._entries: Any = entries
        self._mapper, self._policy, self._replace = mapper, policy, replace
        self._check_truth = check_truth

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Any:
        skipped: list[BadSample] = []
        count = len(self)
        for at in range(index, index + count):
            found = self._load(self._entries[at % count])
            if not isinstance(found, BadSample):
                return found | {_SKIPPED: tuple(skipped)} if skipped else found
            if not self._replace:
                return found
            skipped.append(found)
            if len(skipped) > self._policy.limit(count):
                break
        raise BadSampleError(too_many(skipped, count, self._policy))

    def _load(self, entry: Mapping[str, Any]) -> Any:
        try:
            notes = check_entry(entry)
            sample = self._mapper(dict(entry))
            if self._check_truth is not None:
                self._check_truth(sample)
        except (ValueError, OSError) as error:
            file = str(entry.get("file_name", f"image {entry.get('image_id')!r}"))
            bad = BadSample(file, in_words(error), entry.get("image_id"))
            if self._policy.name == REFUSE:
                raise BadSampleError(f"{bad} ({_ADVICE})") from error
            return bad
        notes = [str(BadSample(entry["file_name"], note)) for note in notes]
        notes += sample.pop(NOTES, ())
        return sample | {NOTES: tuple(notes)} if notes else sample


_ADVICE = (
    "mend or remove it, or set DATALOADER.BAD_SAMPLES skip; freqfusion.tools.check_dataset lists"
    " all such files"
)


class CountedBatches:
    """Batches of ``CheckedSamples``, without what tells of bad ones: that is counted in ``tally``.

    A batch of which nothing is left does not come.
    """

    def __init__(self, batches: Any, tally: Tally) -> None:
        self.batches, self.tally = batches, tally

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        batches = iter(self.batches)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except BadSampleError as error:
                raise BadSampleError(error.sentence) from error
            kept = [sample for sample in batch if self._count(sample)]
            if kept:
                yield kept

    def state_dict(self) -> dict[str, Any]:
        """Where a ``TrainingLoader`` is."""
        state: dict[str, Any] = self.batches.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Have a ``TrainingLoader`` go on."""
        self.batches.load_state_dict(state)

    def _count(self, sample: Any) -> bool:
        if isinstance(sample, BadSample):
            self.tally.skip(sample)
            return False
        for bad in sample.pop(_SKIPPED, ()):
            self.tally.skip(bad)
        for text in sample.pop(NOTES, ()):
            self.tally.note(text)
        return True


def tally_of(loader: Any) -> Tally:
    """What counts for a loader; for one from elsewhere, such as a subclass's own, an empty one."""
    if isinstance(loader, CountedBatches):
        return loader.tally
    return Tally("training", 0, Policy())
