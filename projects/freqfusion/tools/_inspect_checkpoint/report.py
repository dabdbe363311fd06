"""What is in a checkpoint, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from freqfusion.tools._inspect_checkpoint.contents import Row

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def render(about: Mapping[str, Any]) -> str:
    """The lines for a terminal; ``about`` is what ``--json`` has."""
    lines = [f"{about['file']}: {about['format'] or 'not a checkpoint'}, {_size(about['bytes'])}"]
    if about["sha256"]:
        lines.append(f"sha256: {about['sha256']}")
    where = f" under {about['weights']!r}" if about["weights"] else ""
    lines.append(
        f"weights: {about['tensors']} tensors{where}, {about['parameters']:,} numbers,"
        f" {_size(about['tensor_bytes'])}"
    )
    lines += _table(
        ("prefix", "tensors", "numbers", "size", "types"),
        [
            (
                group["prefix"],
                str(group["tensors"]),
                f"{group['parameters']:,}",
                _size(group["bytes"]),
                ", ".join(group["dtypes"]),
            )
            for group in about["groups"]
        ],
    )
    if about["beside"]:
        lines += ["beside them:", *_table((), list(about["beside"].items()))]
    refused = [entry["name"] for entry in about["imports"] if not entry["read"]]
    known = len(about["imports"]) - len(refused)
    if refused:
        lines.append(f"names what could run code: {', '.join(refused[:20])}")
        lines += [f"  and {len(refused) - 20} others"] if len(refused) > 20 else []
    elif known:
        lines.append(f"imports: {known}, all of them parts of tensors and containers")
    else:
        lines.append("imports: none")
    problem = about["problem"]
    lines.append(f"It is not read: it {problem}" if problem else "It is read without running code.")
    return "\n".join(lines)


def render_names(rows: Sequence[Row]) -> str:
    """A line for each tensor."""
    cells = [
        (row.name, " x ".join(map(str, row.shape)) or "1", row.dtype, _size(row.bytes))
        for row in rows
    ]
    return "\n".join(_table(("name", "shape", "type", "size"), cells)) or "no name fits"


def _table(head: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    if not cells:
        return []
    rows = [tuple(head), *cells] if head else list(cells)
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else f"{count} B"
