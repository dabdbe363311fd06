"""What a check found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ERROR = "error"
NOTE = "note"
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (``severity`` "error") or worth knowing ("note").

    ``kind`` groups findings in a report; ``file`` is the file, the folder, or the configuration
    key that it is about.
    """

    severity: str
    kind: str
    file: str
    found: str
    expected: str
    dataset: str = ""

    def sentence(self) -> str:
        """For a user: where, what was found, what was expected."""
        return f"{self.file}: {self.found}; expected: {self.expected}"

    def __str__(self) -> str:
        return self.sentence()


def error(kind: str, file: object, found: str, expected: str) -> Finding:
    """Something that breaks or falsifies training or evaluation."""
    return Finding(ERROR, kind, str(file), found, expected)


def note(kind: str, file: object, found: str, expected: str) -> Finding:
    """Something that may be intended."""
    return Finding(NOTE, kind, str(file), found, expected)


def shorten(items: Iterable[object]) -> str:
    """The first few, and how many more there are."""
    words = [str(item) for item in items]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def format_size(size: tuple[int, int]) -> str:
    """``480 x 640 (height x width)``."""
    return f"{size[0]} x {size[1]} (height x width)"
