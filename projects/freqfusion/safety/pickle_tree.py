"""What a pickle would build, as a tree in which nothing has been called.

Plain values and containers are themselves. Sets and frozensets are calls, because their items could
not be hashed here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Name:
    """What would be imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Call:
    """What would be called with what, and what the result would be given.

    ``state`` is what it would be told to restore, ``items`` and ``pairs`` what would be put in.
    """

    function: Name
    arguments: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Outside:
    """Something that is not in the pickle, by what the reader is to find it with."""

    key: Any


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes that were passed over: where they are in the file, how many, and whether a text."""

    start: int
    length: int
    text: bool = False


def children(node: Any) -> list[Any] | None:
    """What a node holds; None for one that holds nothing."""
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, list | tuple):
        return list(node)
    if isinstance(node, Call):
        return [node.arguments, node.state, *node.items, *node.pairs.values()]
    return [node.key] if isinstance(node, Outside) else None
