"""What was measured, as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_COLUMNS = ("module", "parameters", "buffers", "FLOPs", "share", "for backward", "time", "spread")
_MEBIBYTE = 1 << 20
_NOTHING = "-"


def render(result: dict[str, Any], depth: int) -> str:
    """Header, the tree of modules down to ``depth``, and what was not counted."""
    lines = [*header(result), "", *_aligned(rows_of(result, depth)), "", *footer(result)]
    return "\n".join(lines)


def rows_of(result: dict[str, Any], depth: int) -> list[tuple[str, ...]]:
    """A head, and a row for each part down to ``depth``; names are indented by two spaces."""
    shown = [part for part in result["modules"] if _level(part) <= depth and _has_numbers(part)]
    return [_COLUMNS, *(_row(part, result) for part in shown)]


def header(result: dict[str, Any]) -> list[str]:
    """What was measured, and the sums, in lines."""
    model = result["model"]
    size = "x".join(map(str, result["size"]))
    if result["padded_size"] not in (None, result["size"]):
        size += f", padded to {'x'.join(map(str, result['padded_size']))}"
    where = result["device"]
    if where == "cpu":
        where = f"CPU, {result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    weights = result["weights"] or "random weights"
    lines = [
        f"{result['config']}, {weights}",
        f"one image of {size}, {result['dtype']}, {where}",
        f"parameters {_number(model['trainable'] + model['frozen'])}, of them trainable"
        f" {_number(model['trainable'])}; FLOPs {_number(model['flops'])}",
        f"memory at the peak of inference {_bytes(model['peak_inference_bytes'])}; kept for"
        f" backward {_bytes(model['saved_bytes'])}",
    ]
    if model["milliseconds"]:
        times = model["milliseconds"]
        spread = f"{_time(times['fastest'])} to {_time(times['slowest'])}"
        runs = f", median of {result['runs']} runs ({spread})" if result["runs"] > 1 else ""
        lines.append(f"inference {_time(times['median'])} ms{runs}")
    return lines


def _row(part: dict[str, Any], result: dict[str, Any]) -> tuple[str, ...]:
    name = "  " * _level(part) + (part["name"].rpartition(".")[2] or part["class"])
    times, total = part["milliseconds"], result["model"]["flops"]
    ran = times is not None and times["slowest"] > 0
    return (
        name,
        _number(part["trainable"] + part["frozen"]),
        _number(part["buffers"]),
        _number(part["flops"]),
        f"{part['flops'] / total:.1%}" if part["flops"] else _NOTHING,
        _bytes(part["saved_bytes"]),
        f"{_time(times['median'])} ms" if ran else _NOTHING,
        f"{_time(times['fastest'])} to {_time(times['slowest'])}" if ran else _NOTHING,
    )


def footer(result: dict[str, Any]) -> list[str]:
    """What the numbers mean, and what is not in them, in sentences."""
    operators = result["operators"]
    counted = (f"{_bare(name)} {_number(n)}" for name, n in operators["by_operator"].items())
    lines = [
        f"FLOPs: {result['flops_convention']}.",
        f"Counted: {', '.join(counted)}.",
    ]
    kinds = (("Elementwise", "elementwise"), ("Moving numbers", "moving"))
    for title, kind in kinds:
        names = sorted({_bare(name) for name in operators[kind]})
        lines.append(f"{title}, not counted: {', '.join(names) or 'none'}.")
    if operators["unknown"]:
        calls = (f"{name} ({n} calls)" for name, n in operators["unknown"].items())
        lines.append(f"Unknown, so their work is missing here: {', '.join(calls)}.")
    lines.append(
        "For backward: what a training step on one image keeps for gradients; parameters excluded."
    )
    return [*lines, *(f"Note: {note}." for note in result["notes"])]


def _level(part: dict[str, Any]) -> int:
    return part["name"].count(".") + 1 if part["name"] else 0


def _has_numbers(part: dict[str, Any]) -> bool:
    """Activations and other parts without parameters and counted work would only fill lines."""
    keys = ("trainable", "frozen", "buffers", "flops", "saved_bytes")
    return not part["name"] or any(part[key] for key in keys)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *cells])


def _number(value: int) -> str:
    """Three or four digits and a unit: 1234 -> 1.23 k."""
    if not value:
        return _NOTHING
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return str(value)


def _bytes(value: int | None) -> str:
    if not value:
        return _NOTHING
    return f"{value / 1024:.1f} KiB" if value < _MEBIBYTE else f"{value / _MEBIBYTE:.1f} MiB"


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.2f}"


def _bare(name: str) -> str:
    return name.partition("::")[2]
