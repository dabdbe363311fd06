"""How much a nested thing, whose parts may come several times, would be when it is written out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from freqfusion.safety.errors import RefusedError

# The state of an optimizer is six containers deep.
DEEPEST = 100


def check_extent(
    root: Any, children: Callable[[Any], Iterable[Any] | None], *, most: int, deepest: int = DEEPEST
) -> None:
    """RefusedError if a thing holds itself, is too deep, or is too large once it is unfolded.

    Takes time in proportion to what is there, not to what it unfolds to.

    Args:
        root: The thing.
        children: What a part holds; None for one that holds nothing.
        most: Number of parts when every repetition is written out.
        deepest: Number of parts within one another.
    """
    known: dict[int, tuple[int, int]] = {}  # of each part: parts, 0 while it is open, and height

    def parts_of(node: Any, depth: int) -> tuple[int, int]:
        held = children(node)
        if held is None:
            return 1, 0
        parts, height = known.get(id(node), (-1, 0))
        if parts == 0:
            raise RefusedError("has a container that holds itself, which is damaged or a trick")
        if depth + height > deepest:
            raise RefusedError(f"is nested more than {deepest} deep, which nothing here needs")
        if parts < 0:
            known[id(node)] = 0, 0
            parts, height = 1, 0
            for child in held:
                more, below = parts_of(child, depth + 1)
                parts, height = parts + more, max(height, below + 1)
            known[id(node)] = parts, height
        if parts > most:
            raise RefusedError(
                f"unfolds to more than {most} parts, because its containers share others"
            )
        return parts, height

    parts_of(root, 0)
