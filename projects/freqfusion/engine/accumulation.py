"""A batch in parts, for gradients that are added up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def in_parts(batch: Any, count: int) -> list[Any]:
    """Split a batch into runs of images whose numbers differ by one at most.

    There are fewer parts than ``count`` where there are fewer images.

    Args:
        batch: A sequence of images; with one part it may be anything that has a length.
        count: From 1.
    """
    if count == 1 or not isinstance(batch, Sequence):
        return [batch]
    count = min(count, len(batch))
    ends = [len(batch) * number // count for number in range(count + 1)]
    return [batch[start:end] for start, end in itertools.pairwise(ends)]
