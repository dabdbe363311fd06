"""Which metrics are drawn, in which order and group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# Metrics that a plot without --metrics has, in this order; one group, one row or more.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("training", (r"total_loss", r"validation_loss", r"loss_[a-z_]*[a-z]", r"lr")),
    ("semantic", (r"sem_seg/(mIoU|IoU)", r"sem_seg/mBoundaryIoU", r"sem_seg/(fwIoU|pACC|mACC)")),
    ("instances", (r"bbox/AP", r"bbox/AP(50|75)", r"segm/AP", r"segm/AP(50|75)")),
    ("panoptic", (r"panoptic_seg/PQ", r"panoptic_seg/PQ_(th|st)", r"panoptic_seg/(SQ|RQ)")),
)
_PREFIXES = {
    "training": ("loss_",),
    "semantic": ("sem_seg/",),
    "instances": ("bbox/", "segm/"),
    "panoptic": ("panoptic_seg/",),
}
# Of the others, those of a data set or a task, but neither of a class nor about the speed.
_SCORE = re.compile(r"[^/]+/[^/-]+")
_INNER = re.compile(r"(fast_rcnn|roi_head|mask_rcnn|rpn|retinanet)/.*|.*time.*|.*eta.*")
_SMOOTHED = re.compile(r"total_loss|validation_loss|loss_.*|(fast_rcnn|roi_head|mask_rcnn|rpn)/.*")


@dataclass(frozen=True)
class Group:
    """Metrics that are drawn together."""

    name: str
    metrics: tuple[str, ...]


def choose(known: Iterable[str], patterns: Sequence[str]) -> list[Group]:
    """Groups of metrics: those that one of the patterns fits anywhere, or else the usual ones.

    Raises:
        ValueError: if there are none, or a pattern is no regular expression or fits nothing.
    """
    names = list(dict.fromkeys(known))
    if patterns:
        chosen = [name for name in names if any(found(p, name) for p in patterns)]
        for pattern in patterns:
            if not any(found(pattern, name) for name in names):
                raise ValueError(
                    f"no metric matches {pattern!r}; known are {', '.join(sorted(names))}"
                )
    else:
        chosen = [name for name in names if _is_usual(name)]
    if not chosen:
        raise ValueError(
            "no loss, learning rate or score was found; choose with --metrics from"
            f" {', '.join(sorted(names)) or 'nothing'}"
        )
    return grouped(chosen)


def grouped(names: Sequence[str]) -> list[Group]:
    """Names by group, in the order of ``GROUPS``; others follow, by the part before the slash."""
    groups: list[Group] = []
    left = list(names)
    for title, patterns in GROUPS:
        mine = [n for p in patterns for n in sorted(left, key=_natural) if re.fullmatch(p, n)]
        mine += [
            n
            for n in sorted(left, key=_natural)
            if n.startswith(_PREFIXES[title]) and n not in mine
        ]
        if mine:
            groups.append(Group(title, tuple(dict.fromkeys(mine))))
        left = [name for name in left if name not in mine]
    for prefix in dict.fromkeys(_prefix(name) for name in left):
        mine = sorted((name for name in left if _prefix(name) == prefix), key=_natural)
        groups.append(Group(prefix, tuple(mine)))
    return groups


def is_smoothed(name: str) -> bool:
    """Whether a metric is noisy by nature: losses are, scores and learning rates are not."""
    return _SMOOTHED.fullmatch(name) is not None


def found(pattern: str, name: str) -> bool:
    """Whether a regular expression fits some part of a name; ValueError for a broken one."""
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def _is_usual(name: str) -> bool:
    if any(re.fullmatch(pattern, name) for _, patterns in GROUPS for pattern in patterns):
        return True
    listed = tuple(prefix for prefixes in _PREFIXES.values() for prefix in prefixes)
    return bool(
        _SCORE.fullmatch(name) and not _INNER.fullmatch(name) and not name.startswith(listed)
    )


def _prefix(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "other"


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts loss_ce_10 after loss_ce_9."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
