"""What the kinds of truth have in common: an index, and something to check for each image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from freqfusion.data.validation.finding import Finding, note
from freqfusion.data.validation.pictures import Picture


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found in an image's truth, and the class numbers that occur there."""

    findings: tuple[Finding, ...] = ()
    seen: frozenset[int] = frozenset()


class Truth(Protocol):
    """The truth of one image; picklable, since it is checked in another process."""

    def check(self, image: Picture | None) -> Outcome:
        """Compare it with itself and the image (None if that could not be read)."""
        ...


@dataclass(slots=True)
class Source:
    """One kind of truth of a data set: JSON file or folder, what its index says, truth by image.

    ``classes`` are the names by number of those that should occur, ``seen`` the numbers that do
    as far as the index tells, ``truth_files`` further files that the index names.
    """

    place: str
    findings: list[Finding] = field(default_factory=list)
    truths: dict[str, Truth] = field(default_factory=dict)
    classes: dict[int, str] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    truth_files: list[str] = field(default_factory=list)

    def absent_classes(self) -> list[Finding]:
        """Notes on classes that never occur; none where there are no images."""
        if not self.truths:
            return []
        return [
            note(
                "class that never occurs",
                self.place,
                f"class {name!r} ({number}) has no pixel and no object",
                "each class at least once",
            )
            for number, name in self.classes.items()
            if number not in self.seen
        ]


def outcome(findings: Iterable[Finding], seen: Iterable[int] = ()) -> Outcome:
    """An outcome from any iterables."""
    return Outcome(tuple(findings), frozenset(seen))
