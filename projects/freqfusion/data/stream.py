"""Which images are trained on in which order, as integers.

The order is a function of a seed, so that a run goes on exactly where it was interrupted by
counting up to there. It depends neither on the number of processes nor on that of the workers which
load images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Place(NamedTuple):
    """One turn of an image: its number among all turns of the run, and its index."""

    turn: int
    image: int


def batches(
    indices: Iterable[int], size: int, groups: Sequence[int] | None = None
) -> Iterator[list[Place]]:
    """Batches of all processes together.

    Args:
        indices: Of images, without end.
        size: Images in a batch.
        groups: For each image the group that it shares batches with; None for one group. A batch
            comes when its group has enough images.
    """
    waiting: dict[int, list[Place]] = {}
    for turn, index in enumerate(indices):
        batch = waiting.setdefault(groups[index] if groups else 0, [])
        batch.append(Place(turn, index))
        if len(batch) == size:
            yield batch.copy()
            batch.clear()


def share(batch: Sequence[Place], rank: int, world_size: int) -> list[Place]:
    """What one of several processes loads of a batch, whose size is a multiple of theirs."""
    own = len(batch) // world_size
    return list(batch[rank * own : (rank + 1) * own])
