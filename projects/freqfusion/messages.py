"""What the messages of several rooms share: similar names, short lists, no foreign warnings."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

DEBUG = "--debug"
# Category, and the beginning of the message.
_FOR_DEVELOPERS = (
    (DeprecationWarning, ""),
    (PendingDeprecationWarning, ""),
    (FutureWarning, ""),
    (UserWarning, "torch.meshgrid"),
)


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known names that are most like a wrong one, the most alike first.

    A configuration key (in capitals) in the wrong section has the same last part: then only keys
    with that part are named.
    """

    def last(one: str) -> str:
        return (one.rpartition(".")[2] if one.isupper() else one).lower()

    def alike(other: str) -> float:
        """Between 0 and 2, for the whole names and their last parts."""
        pairs = (name.lower(), other.lower()), (last(name), last(other))
        return sum(SequenceMatcher(None, one, two).ratio() for one, two in pairs)

    scores = sorted(((alike(other), other) for other in set(known)), reverse=True)
    scores = [(score, other) for score, other in scores if score >= 1.3]
    same = [other for _, other in scores if last(other) == last(name)]
    close = [other for score, other in scores if score >= scores[0][0] - 0.15]
    return (same or close)[:count]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean A or B?``, or "" where no known name is like it."""
    near = nearest(name, known)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def shorten(items: Iterable[object], most: int = 5) -> str:
    """Return the first items, ``most`` at most, and how many more there are."""
    words = [str(item) for item in items]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def hide_deprecations(arguments: Sequence[str] | None) -> None:
    """Hide warnings for the developers of other packages, here and in processes started here.

    Everything is shown with ``--debug`` among the arguments of the command (None: those of this
    process), and where the user chose what to see, by ``python -W`` or ``PYTHONWARNINGS``.
    """
    filters = [f"ignore:{message}:{category.__name__}" for category, message in _FOR_DEVELOPERS]
    ours = ",".join(filters)
    # A process that such a command has started inherits its filters.
    is_users = bool(sys.warnoptions) and os.environ.get("PYTHONWARNINGS") != ours
    if DEBUG in (sys.argv[1:] if arguments is None else arguments) or is_users:
        return
    for category, message in _FOR_DEVELOPERS:
        warnings.filterwarnings("ignore", message, category)
    # A warning in all but name, at Detectron2's first step.
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    os.environ["PYTHONWARNINGS"] = ours
