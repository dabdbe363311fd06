"""Scores of panoptic quality by category and by group, and their table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from freqfusion.metrics.confusion import mean_of_present

Category = Mapping[str, Any]


@dataclass(frozen=True)
class ClassQuality:
    """Scores of a category, 0..1: nan when it has no segment; ``sq`` is 0 when nothing matches."""

    id: int
    name: str
    isthing: bool
    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int
    iou_sum: float


@dataclass(frozen=True)
class GroupQuality:
    """Means over the ``n`` categories of a group that have a segment; nan when n is 0."""

    pq: float
    sq: float
    rq: float
    n: int


@dataclass(frozen=True)
class PanopticResult:
    """Scores of all categories in their order, and of the groups All, Things and Stuff."""

    classes: tuple[ClassQuality, ...]
    groups: dict[str, GroupQuality]


def class_quality(category: Category, tp: int, fp: int, fn: int, iou_sum: float) -> ClassQuality:
    """Scores of a category from its counts."""
    weight = tp + fp / 2 + fn / 2
    nothing = 0.0 if weight else float("nan")
    return ClassQuality(
        id=category["id"],
        name=str(category.get("name", category["id"])),
        isthing=bool(category["isthing"]),
        pq=iou_sum / weight if weight else nothing,
        sq=iou_sum / tp if tp else nothing,
        rq=tp / weight if weight else nothing,
        tp=tp,
        fp=fp,
        fn=fn,
        iou_sum=iou_sum,
    )


def summarize(classes: tuple[ClassQuality, ...]) -> PanopticResult:
    """The result of all categories, with the means of its groups."""
    groups = {
        "All": _mean(classes),
        "Things": _mean(score for score in classes if score.isthing),
        "Stuff": _mean(score for score in classes if not score.isthing),
    }
    return PanopticResult(classes, groups)


def _mean(scores: Iterable[ClassQuality]) -> GroupQuality:
    columns = np.array([(score.pq, score.sq, score.rq) for score in scores]).reshape(-1, 3)
    pq, sq, rq = (mean_of_present(column) for column in columns.T)
    return GroupQuality(pq, sq, rq, n=int(np.sum(~np.isnan(columns[:, 0]))))


def panoptic_table(result: PanopticResult) -> str:
    """A table of the scores in percent: a row for each category, then the groups."""
    rows = [("category", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN")]
    for score in result.classes:
        kind = "thing" if score.isthing else "stuff"
        counts = (str(score.tp), str(score.fp), str(score.fn))
        rows.append((score.name, kind, *_percents(score), *counts))
    for name, group in result.groups.items():
        rows.append((name, f"n = {group.n}", *_percents(group), "", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(_line(row, widths) for row in rows)


def _percents(score: ClassQuality | GroupQuality) -> tuple[str, str, str]:
    return f"{100 * score.pq:.2f}", f"{100 * score.sq:.2f}", f"{100 * score.rq:.2f}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
