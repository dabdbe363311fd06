"""What a modulated backbone has done during one pass, for those who undo or supervise it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from freqfusion.layers.sfm import MappingStack
from freqfusion.layers.sfm.mapping import Mapping as StageMapping
from freqfusion.modeling.sfm.insertion import InsertionPoint


class Modulations(NamedTuple):
    """What one pass has done: the stages under each feature, and the attention's logits.

    ``logits[name]`` (B, 1, H, W) belong to the map ``name``, so they lie in the space that
    ``mappings[name]`` leads to.
    """

    mappings: dict[str, MappingStack]
    logits: dict[str, Tensor]


class Record(NamedTuple):
    """One step: its mapping, and the logits where the map was resampled."""

    mapping: StageMapping
    logits: Tensor | None


# Per thread, and set only while a pass runs. Recomputed passes (activation checkpointing) find
# nothing here: they resample in the same way and record nothing.
_RECORDS: ContextVar[dict[str, Record] | None] = ContextVar("records", default=None)
_LISTENER: ContextVar[list[Modulations] | None] = ContextVar("listener", default=None)
# One entry per listener in any thread: without one, torch.compile has no context variable to read,
# which the oldest versions of torch cannot trace.
_LISTENING: list[None] = []
# The records of the pass that torch.compile is tracing, which cannot set a context variable. It
# traces in one thread at a time, and a compiled graph holds nothing of this list any more.
_TRACED: list[dict[str, Record]] = []


@contextmanager
def record_modulations() -> Iterator[list[Modulations]]:
    """Collect what every modulated backbone does in this thread, one entry per pass.

    For the supervision of the attention where the backbone lies deep inside a model, for instance
    under a pyramid.
    """
    seen: list[Modulations] = []
    token = _LISTENER.set(seen)
    _LISTENING.append(None)
    try:
        yield seen
    finally:
        _LISTENING.pop()
        _LISTENER.reset(token)


def report(modulations: Modulations) -> None:
    """Tell :func:`record_modulations`, if it is in use."""
    listener = _LISTENER.get() if _LISTENING else None
    if listener is not None:
        listener.append(modulations)


@contextmanager
def recorded_pass() -> Iterator[dict[str, Record]]:
    """Collect the records of one pass, by the feature that is resampled.

    By key, because a recomputed part of the network would be recorded twice otherwise.
    """
    records: dict[str, Record] = {}
    if torch.compiler.is_compiling():
        _TRACED.append(records)
        try:
            yield records
        finally:
            _TRACED.pop()
        return
    token = _RECORDS.set(records)
    try:
        yield records
    finally:
        _RECORDS.reset(token)


def add_record(feature: str, record: Record) -> None:
    """Record a step of the pass that runs, if one does."""
    # After a graph break, a pass can have begun in the other way than its steps run.
    if _TRACED and torch.compiler.is_compiling():
        records: dict[str, Record] | None = _TRACED[-1]
    else:
        records = _RECORDS.get()
    if records is not None:
        records[feature] = record


def stack_mappings(
    points: Sequence[InsertionPoint],
    records: Mapping[str, Record],
    strides: Mapping[str, int],
    features: Mapping[str, Tensor],
) -> dict[str, MappingStack]:
    """Return the stages under each feature and under each map that was resampled.

    Raises:
        RuntimeError: if a step was not taken, or a map does not have the size that the stages give.
    """
    idle = [point.path for point in points if point.feature not in records]
    if idle:
        raise RuntimeError(
            f"{', '.join(idle)} never ran, so nothing was resampled there: name other modules in "
            "MODEL.SFM.POINTS"
        )
    stacks = {
        name: MappingStack(
            records[point.feature].mapping for point in points if point.stride < strides[name]
        )
        for name in [*features, *(point.feature for point in points)]
    }
    for name, maps in features.items():
        size, stack = (maps.shape[-2], maps.shape[-1]), stacks[name]
        if len(stack) and stack[-1].out_size != size:
            raise RuntimeError(
                f"{name} has {size} pixels where its stages give {stack[-1].out_size}: pad images "
                f"to a multiple of {max(strides.values())}, or name other modules in "
                "MODEL.SFM.POINTS"
            )
    return stacks
