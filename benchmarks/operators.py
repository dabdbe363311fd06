"""Measure our forms against plain ones: ``python -m benchmarks.operators reassemble``.

Both forms of a case compute the same maths and run in turn in the same process, after their results
have been compared; whole models are compared with the same models without FreqFusion or SFM.
Medians of milliseconds, float32; memory is the peak beyond inputs and results, each form in a
process of its own. Beside them stand the least bytes and operations of the case and the rate of a
copy, measured in the same process. With ``--sizes`` our forms run at several image sizes instead.

The file of measurements::

    schema    1
    machine   architecture, system and torch; a row that was appended on another one has its own
    runs      counted runs of the last call
    rows      comparisons: suite, case, size, threads, reference, ours_ms and reference_ms (one
              number per run), speedup and speedup_quartiles, *_extra_bytes, floor_bytes,
              floor_operations, copy_gb_per_s, achieved_gb_per_s (floor bytes in our time)
    sizes     our form at image sizes: suite, case, image, threads, memory_kept (the allocator had
              been told to, see docs/performance.md), ours_ms, ns_per_pixel, the last four of above

A number that was not measured is null.
"""

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.documents import CHECKOUT, SCHEMA, read_json, table, write_json, write_marked
from benchmarks.operator_suites import SUITES, WARM_UP, Call, Case, Size, Suite
from benchmarks.timing import copy_rate, peak_extra_bytes, quartiles, run_in_turn
from freqfusion.tools._arguments import number_from, one_of

COMMAND = "python -m benchmarks.operators --write-docs"
DOCUMENT = CHECKOUT / "docs" / "performance.md"
RESULTS = CHECKOUT / "results" / "benchmark.json"
_MEBIBYTE = 1 << 20
# What tells a row from others.
_KEYS = {
    "rows": ("suite", "case", "size", "threads"),
    "sizes": ("suite", "case", "image", "threads", "memory_kept"),
}
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen suites, or write the document; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.write_docs:
            write_marked(DOCUMENT, COMMAND, render(read_json(RESULTS)))
            print(f"Tables: {DOCUMENT}")
        else:
            torch.set_num_threads(options.threads)
            _run(options)
    except (ImportError, ValueError, OSError) as error:
        print(f"operators: {error}", file=sys.stderr)
        return 2
    return 0


def measure(suite: str, case: str, size: Size, runs: int, threads: int) -> dict[str, Any]:
    """Compare the results, times and memory of both forms of a case.

    Memory is ``None`` for whole models and data, whose libraries keep memory of their own.
    """
    chosen = SUITES[suite]
    build = chosen.cases[case]
    ours, reference = (build(size, ours=form) for form in (True, False))
    if chosen.is_same:
        check_same(ours, reference)
    times = [[1000 * one for one in form] for form in run_in_turn(ours, reference, runs)]
    medians = [statistics.median(form) for form in times]
    memory = [None if chosen.of_images else _memory(build, size, f, threads) for f in (True, False)]
    return {
        "suite": suite,
        "case": case,
        "size": f"{size.image[0]}x{size.image[1]} pixels" if chosen.of_images else str(size),
        "threads": threads,
        "reference": chosen.reference,
        "ours_ms": times[0],
        "reference_ms": times[1],
        "speedup": medians[1] / medians[0],
        "speedup_quartiles": quartiles([b / a for a, b in zip(*times, strict=True)]),
        "ours_extra_bytes": memory[0],
        "reference_extra_bytes": memory[1],
        **_rates(chosen, case, size, medians[0], runs),
    }


def check_same(ours: Call, reference: Call) -> None:
    """AssertionError unless both forms have the same results, to a thousandth."""
    for actual, expected in zip(ours(), reference(), strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, atol=1e-3 * scale, rtol=0)


def measure_size(suite: str, case: str, size: Size, runs: int, threads: int) -> dict[str, Any]:
    """Time our form alone at the size of an image."""
    chosen = SUITES[suite]
    call = chosen.cases[case](size, ours=True)
    times = [1000 * one for one in run_in_turn(call, lambda: None, runs)[0]]
    height, width = size.image
    return {
        "suite": suite,
        "case": case,
        "image": max(size.image),
        "threads": threads,
        "memory_kept": "MALLOC_MMAP_THRESHOLD_" in os.environ,
        "ours_ms": times,
        "ns_per_pixel": 1e6 * statistics.median(times) / (height * width),
        **_rates(chosen, case, size, statistics.median(times), runs),
    }


def render(record: Mapping[str, Any]) -> str:
    """Return both tables of a record; a table without rows is left out."""
    counts = [len(row["ours_ms"]) for row in [*record["rows"], *record["sizes"]]]
    low, high = min(counts, default=record["runs"]), max(counts, default=record["runs"])
    runs = str(low) if low == high else f"{low} to {high}"
    parts = [f"Measured on {record['machine']}; medians of {runs} runs in turn."]
    if record["rows"]:
        parts.append(table(_COMPARED, map(_compared, record["rows"])))
    if record["sizes"]:
        parts.append(_per_pixel(record["sizes"]))
    return "\n\n".join(parts)


def _run(options: argparse.Namespace) -> None:
    """Measure, print row by row, and write the record."""
    machine = f"{platform.machine()} {platform.system()}, torch {torch.__version__}"
    record: dict[str, Any] = {
        "schema": SCHEMA, "machine": machine, "runs": options.runs, "rows": [], "sizes": [],
    }  # fmt: skip
    cases = [(suite, case) for suite in options.suites or SUITES for case in SUITES[suite].cases]
    print(f"{machine}, {options.threads} threads, median of {options.runs} runs\n")
    if not options.sizes:
        print(" | ".join(_COMPARED))
    for suite, case in cases:
        for length in options.sizes:
            size = Size(options.channels, length // 8, length // 8)
            row = measure_size(suite, case, size, options.runs, options.threads)
            record["sizes"].append(row)
            print(f"{suite}, {case}: {length} pixels, {row['ns_per_pixel']:.2f} ns per pixel")
        if not options.sizes:
            size = Size(options.channels, options.height, options.width)
            row = measure(suite, case, size, options.runs, options.threads)
            record["rows"].append(row)
            print(" | ".join(_compared(row)), flush=True)
    if options.append and options.output.exists():
        old = read_json(options.output)
        record["machine"] = old["machine"]
        if machine != old["machine"]:
            for row in [*record["rows"], *record["sizes"]]:
                row["machine"] = machine
        for part, keys in _KEYS.items():
            rows = {tuple(row[key] for key in keys): row for row in [*old[part], *record[part]]}
            record[part] = list(rows.values())
    write_json(options.output, record, digits=5)
    print(f"\nNumbers: {options.output}")


def _rates(suite: Suite, case: str, size: Size, median: float, runs: int) -> dict[str, Any]:
    """Return the floor of a case, and the rate that it would mean if nothing else were moved."""
    least = suite.floor(size, case) if suite.floor else None
    return {
        "floor_bytes": least and least.bytes,
        "floor_operations": least and least.operations,
        "copy_gb_per_s": copy_rate(runs) / 1e9,
        "achieved_gb_per_s": least and least.bytes / median / 1e6,
    }


def _memory(case: Case, size: Size, ours: bool, threads: int) -> int | None:
    setup = partial(case, ours=ours)
    return peak_extra_bytes(partial(setup, size), partial(setup, WARM_UP), threads)


def _compared(row: Mapping[str, Any]) -> list[str]:
    """Return the cells of a comparison."""
    ours, reference = (statistics.median(row[f"{form}_ms"]) for form in ("ours", "reference"))
    low, high = row["speedup_quartiles"]
    memory = [row[f"{form}_extra_bytes"] for form in ("ours", "reference")]
    floor = rates = "–"
    if row["floor_bytes"] is not None:
        floor = f"{row['floor_bytes'] / 1e6:.1f}, {row['floor_operations'] / 1e6:.0f}"
        rates = f"{row['achieved_gb_per_s']:.2f} of {row['copy_gb_per_s']:.1f}"
    return [
        f"{row['suite']}, {row['case']}: {row['size']}{_elsewhere(row)}",
        str(row["threads"]),
        row["reference"],
        f"{ours:.1f}",
        f"{reference:.1f}",
        f"**{row['speedup']:.2f}** ({low:.2f} to {high:.2f})",
        " / ".join("–" if one is None else f"{one / _MEBIBYTE:.1f}" for one in memory),
        floor,
        rates,
    ]


def _elsewhere(row: Mapping[str, Any]) -> str:
    """Return the machine of a row that was not measured on that of the others."""
    return f" (on {row['machine']})" if "machine" in row else ""


def _per_pixel(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return nanoseconds per pixel of the image: a line for each case, a column for each size."""
    sizes = sorted({row["image"] for row in rows})
    keys = ("suite", "case", "threads", "memory_kept")
    found = {
        (*(row[key] for key in keys), _elsewhere(row), row["image"]): row["ns_per_pixel"]
        for row in rows
    }
    lines = []
    for case in dict.fromkeys(key[:-1] for key in found):
        cells = [found.get((*case, size)) for size in sizes]
        small, large = found.get((*case, 512)), found.get((*case, 2048))
        lines.append(
            [
                f"{case[0]}, {case[1]}{', memory kept' if case[3] else ''}{case[4]}",
                str(case[2]),
                *(f"{cell:.1f}" if cell else "" for cell in cells),
                f"{large / small:.2f}" if small and large else "",
            ]
        )
    header = ["ns per pixel of the image", "threads", *map(str, sizes), "2048 to 512"]
    return table(header, lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators",
        description="Measure our forms against plain ones, in one run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    suites = f"{' or '.join(SUITES)}; all of them if none is named"
    add("suites", nargs="*", type=one_of(SUITES), metavar="suite", help=suites)
    add("--threads", type=number_from(1), default=2, help="of torch")
    add("--runs", type=number_from(1), default=9, help="counted runs of each form")
    add("--channels", type=number_from(4), default=256, help="of both maps, a multiple of 4")
    add("--height", type=number_from(1), default=64, help="of the coarse map, at stride 8")
    add("--width", type=number_from(1), default=64, help="of the coarse map, at stride 8")
    sizes = "pixels of square images; our forms are timed on the maps of each, in place of height"
    add("--sizes", type=number_from(64), nargs="+", default=(), metavar="PIXELS", help=sizes)
    add("--output", type=Path, default=Path("output/benchmark.json"), help="JSON file to write")
    add("--append", action="store_true", help="keep the file's rows that are not measured again")
    docs = f"measure nothing, write the tables of {RESULTS.name} into docs/{DOCUMENT.name}"
    add("--write-docs", action="store_true", help=docs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
