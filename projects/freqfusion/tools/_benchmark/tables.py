"""Tables of measurements as Markdown, and the part of a document that they make up."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqfusion.tools._markdown import table

BEGIN = "<!-- measured: begin (python -m freqfusion.tools.benchmark --write-docs) -->"
END = "<!-- measured: end -->"
_MEBIBYTE = 1 << 20


def render(record: Mapping[str, Any]) -> str:
    """Both tables of a record; a table without rows is left out."""
    parts = [f"Measured on {record['machine']}; medians of {record['runs']} runs in turn."]
    if record["rows"]:
        parts.append(table(_COMPARED, map(_compared, record["rows"])))
    if record["sizes"]:
        parts.append(_per_pixel(record["sizes"]))
    return "\n\n".join(parts)


def write_into(document: Path, text: str) -> None:
    """Replace what stands between the two marks of a document; ValueError without them."""
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} lacks the lines {BEGIN!r} and {END!r} around its tables")
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


_COMPARED = (
    "case",
    "threads",
    "reference",
    "ours (ms)",
    "reference (ms)",
    "times as fast (quartiles)",
    "extra memory (MiB), ours / reference",
    "at least (MB, Mop)",
    "GB/s of the copy's",
)


def _compared(row: Mapping[str, Any]) -> list[str]:
    ours, reference = (statistics.median(row[f"{form}_ms"]) for form in ("ours", "reference"))
    low, high = row["speedup_quartiles"]
    return [
        f"{row['suite']}, {row['case']}: {row['size']}",
        str(row["threads"]),
        row["reference"],
        f"{ours:.1f}",
        f"{reference:.1f}",
        f"**{row['speedup']:.2f}** ({low:.2f} to {high:.2f})",
        f"{_mebibytes(row['ours_extra_bytes'])} / {_mebibytes(row['reference_extra_bytes'])}",
        _floor(row),
        _rates(row),
    ]


def _per_pixel(rows: Sequence[Mapping[str, Any]]) -> str:
    """Nanoseconds per pixel of the image: a line for each case, a column for each size."""
    sizes = sorted({row["image"] for row in rows})
    keys = ("suite", "case", "threads", "memory_kept")
    found = {(*(row[key] for key in keys), row["image"]): row for row in rows}
    cases = dict.fromkeys(tuple(row[key] for key in keys) for row in rows)
    lines = []
    for case in cases:
        cells = [found.get((*case, size)) for size in sizes]
        line = [f"{case[0]}, {case[1]}{', memory kept' if case[3] else ''}", str(case[2])]
        line += [f"{cell['ns_per_pixel']:.1f}" if cell else "" for cell in cells]
        small, large = found.get((*case, 512)), found.get((*case, 2048))
        ratio = large["ns_per_pixel"] / small["ns_per_pixel"] if small and large else None
        lines.append([*line, f"{ratio:.2f}" if ratio else ""])
    header = ["ns per pixel of the image", "threads", *map(str, sizes), "2048 to 512"]
    return table(header, lines)


def _mebibytes(count: int | None) -> str:
    return "–" if count is None else f"{count / _MEBIBYTE:.1f}"


def _floor(row: Mapping[str, Any]) -> str:
    if row["floor_bytes"] is None:
        return "–"
    return f"{row['floor_bytes'] / 1e6:.1f}, {row['floor_operations'] / 1e6:.0f}"


def _rates(row: Mapping[str, Any]) -> str:
    if row["achieved_gb_per_s"] is None:
        return "–"
    return f"{row['achieved_gb_per_s']:.2f} of {row['copy_gb_per_s']:.1f}"
