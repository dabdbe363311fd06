"""Tables of documents."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; ValueError for a row of another length or a cell that breaks it."""
    lines = [header, ["---"] * len(header), *rows]
    for line in lines:
        if len(line) != len(header) or any("|" in cell or "\n" in cell for cell in line):
            raise ValueError(f"no row of a table with {len(header)} columns: {line}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
