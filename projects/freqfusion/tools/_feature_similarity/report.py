"""The scores as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freqfusion.analysis import SimilarityResult

_COLUMNS = ("IntraSim", "InterSim", "margin", "nearer to another class", "class mean")


@dataclass(frozen=True)
class Row:
    """The scores of one layer of one model, on all pixels or on a band."""

    model: str
    layer: str
    place: str
    edge_width: int
    result: SimilarityResult

    @property
    def pixels(self) -> str:
        """Which pixels were measured, in words."""
        return f"band {self.edge_width}" if self.edge_width else "all"


def cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """A head, and a line for each row; "-" where there is nothing to average."""
    lines = [
        (row.model, row.layer, row.pixels, *_overall(row.result))
        for row in sorted(rows, key=lambda row: row.edge_width)
    ]
    return [("model", "layer", "pixels", *_COLUMNS), *lines]


def table(rows: Sequence[Row], images: int) -> str:
    """The cells as text."""
    count = f"{images} image{'s' if images > 1 else ''}"
    return "\n".join([count, "", *_aligned(cells(rows), 3)])


def class_table(row: Row, names: Sequence[str]) -> str:
    """One line for each class that occurs, those that are left out of the means in brackets."""
    result, lines = row.result, []
    for number, name in enumerate(names):
        if not result.pixels[number] and math.isnan(result.inter.mean[number]):
            continue
        counted = result.error_counts[number]
        values = (part.mean[number] for part in (result.intra, result.inter, result.margin))
        rate = percent(result.error_rates[number])
        pixels = str(result.pixels[number])
        lines.append((name if counted else f"({name})", *map(cosine, values), rate, pixels))
    head = ("class", *_COLUMNS[:4], "pixels")
    title = f"{row.model}, {row.layer}, pixels: {row.pixels}"
    return "\n".join([title, *_aligned([head, *lines], 1)])


def content(rows: Iterable[Row], names: Sequence[str], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All scores for a JSON file, None where there is nothing to average."""
    return {**facts, "classes": list(names), "rows": [_entry(row, names) for row in rows]}


def cosine(value: float) -> str:
    """With three digits."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def percent(rate: float) -> str:
    """A part of 1 in percent."""
    return "-" if math.isnan(rate) else f"{100 * rate:.2f} %"


def _overall(result: SimilarityResult) -> tuple[str, ...]:
    values = (part.overall for part in (result.intra, result.inter, result.margin))
    return (
        *map(cosine, values),
        percent(result.pixel_error_rate),
        percent(result.class_error_rate),
    )


def _entry(row: Row, names: Sequence[str]) -> dict[str, Any]:
    result = row.result
    parts = {"intra": result.intra, "inter": result.inter, "margin": result.margin}
    overall: dict[str, Any] = {}
    for name, values in parts.items():
        overall |= {name: number(values.overall), f"{name}_std": number(values.overall_std)}
    overall["pixel_error_rate"] = number(result.pixel_error_rate)
    overall["class_error_rate"] = number(result.class_error_rate)
    classes = {}
    for at, name in enumerate(names):
        one: dict[str, Any] = {"pixels": int(result.pixels[at])}
        for part, values in parts.items():
            one |= {
                part: number(values.mean[at]),
                f"{part}_std": number(values.std[at]),
                f"{part}_counts": bool(values.counts[at]),
            }
        one["error_rate"] = number(result.error_rates[at])
        one["error_counts"] = bool(result.error_counts[at])
        classes[name] = one
    return {
        "model": row.model,
        "layer": row.layer,
        "place": row.place,
        "edge_width": row.edge_width,
        "images": result.images,
        "pixels": int(result.pixels.sum()),
        "overall": overall,
        "per_class": classes,
    }


def number(value: float) -> float | None:
    """None for nan, which JSON does not know."""
    return None if math.isnan(value) else float(value)


def _aligned(lines: Sequence[Sequence[str]], words: int) -> list[str]:
    """Columns of one width: the first ``words`` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
