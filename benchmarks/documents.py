"""Results as JSON files, and the Markdown documents that show them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freqfusion.files import write_whole

CHECKOUT = Path(__file__).resolve().parents[1]
SCHEMA = 1
NOT_MEASURED = "not measured"
END = "<!-- measured: end -->"


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a file of results.

    Raises:
        ValueError: with what to do, for a file that is damaged or of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it and run again") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is no result of schema {SCHEMA}; delete it and run again")
    return content


def write_json(path: Path, content: Mapping[str, Any], *, digits: int = 7) -> None:
    """Write a file whole or not at all; numbers get ``digits`` digits, NaN becomes null."""
    rounded = json.loads(
        json.dumps(content),
        parse_float=lambda text: float(f"{float(text):.{digits}g}"),
        parse_constant=lambda _: None,
    )
    write_whole(path, json.dumps(rounded, indent=1) + "\n")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    assert all(len(line) == len(header) for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def begin_mark(command: str) -> str:
    """Return the line above the tables that a command writes."""
    return f"<!-- measured: begin ({command}) -->"


def read_marked(document: Path, command: str) -> str:
    """Return what stands between the marks of a command; ValueError without marks."""
    return _parts(document, command)[1].strip()


def write_marked(document: Path, command: str, text: str) -> None:
    """Replace what stands between the marks of a command; ValueError without marks."""
    before, _, after = _parts(document, command)
    content = f"{before}{begin_mark(command)}\n{text}\n{END}{after}"
    document.write_text(content, encoding="utf-8")


def _parts(document: Path, command: str) -> tuple[str, str, str]:
    begin = begin_mark(command)
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    between, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{document} lacks the lines {begin!r} and {END!r} around its tables")
    return before, between, after
