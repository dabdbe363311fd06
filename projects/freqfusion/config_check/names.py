"""Names that are like a wrong one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

# Alikeness of two names, 0 to 2 (the whole names, and their last parts), from which one is hinted
# at, and how far behind the best one a hint may be.
_ALIKE = 1.4
_BEHIND = 0.15


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names that are most like a wrong one, the most alike first; none if none is.

    A key in the wrong section has the same last part: then only keys with that part are named.
    """
    scores = sorted(((_alikeness(name, other), other) for other in set(known)), reverse=True)
    scores = [(score, other) for score, other in scores if score >= _ALIKE]
    same = [other for _, other in scores if _last(other) == _last(name)]
    close = [other for score, other in scores if score >= scores[0][0] - _BEHIND]
    return (same or close)[:count]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean A or B?``, or nothing where no known name is like it."""
    near = nearest(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def listed(items: Iterable[object]) -> str:
    """Things with commas between them."""
    return ", ".join(str(item) for item in items)


def _last(name: str) -> str:
    return name.rpartition(".")[2].lower()


def _alikeness(name: str, other: str) -> float:
    pairs = (name.lower(), other.lower()), (_last(name), _last(other))
    return sum(SequenceMatcher(None, one, two).ratio() for one, two in pairs)
