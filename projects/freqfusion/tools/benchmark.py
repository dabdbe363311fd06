"""Measure our forms against plain ones: ``python -m freqfusion.tools.benchmark reassemble``.

Both forms of a case compute the same maths and run in turn in the same process, after their results
have been compared. Medians of milliseconds, float32; memory is the peak beyond inputs and results,
each form in a process of its own.
"""

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from freqfusion.tools._arguments import number_from, one_of
from freqfusion.tools._benchmark.memory import peak_extra_bytes
from freqfusion.tools._benchmark.suites import REFERENCES, SUITES, WARM_UP, Case, Size
from freqfusion.tools._benchmark.timing import compare

_MEBIBYTE = 1 << 20
_TOLERANCE = 1e-3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen suites; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    size = Size(options.channels, options.height, options.width)
    print(f"{_machine()}, {options.threads} threads, {size}, median of {options.runs} runs\n")
    rows: list[dict[str, Any]] = []
    print(_HEADER)
    try:
        for suite in options.suites or SUITES:
            for backward in (False, True):
                rows.append(measure(suite, size, backward, options.runs, options.threads))
                print(_format(rows[-1]), flush=True)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": _machine(), "threads": options.threads, "rows": rows}
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    print(f"\nNumbers: {options.output}")
    return 0


def measure(suite: str, size: Size, backward: bool, runs: int, threads: int) -> dict[str, Any]:
    """One row: both forms of a case, checked against each other, timed and weighed."""
    case = SUITES[suite]
    ours, reference = (case(size, ours=form, backward=backward) for form in (True, False))
    for actual, expected in zip(ours(), reference(), strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, atol=_TOLERANCE * scale, rtol=0)
    timing = compare(ours, reference, runs)
    memory = [_memory(case, size, form, backward, threads) for form in (True, False)]
    return {
        "suite": suite,
        "case": "forward + backward" if backward else "forward",
        "size": str(size),
        "reference": REFERENCES[suite],
        "ours_ms": timing.ours,
        "reference_ms": timing.reference,
        "speedup": timing.ratio,
        "ours_extra_bytes": memory[0],
        "reference_extra_bytes": memory[1],
    }


def _memory(case: Case, size: Size, ours: bool, backward: bool, threads: int) -> int | None:
    setup = partial(case, ours=ours, backward=backward)
    return peak_extra_bytes(partial(setup, size), partial(setup, WARM_UP), threads)


_HEADER = (
    f"{'suite':14}{'case':20}{'ours (ms)':>12}{'plain (ms)':>14}{'times as fast':>15}"
    f"{'ours (MiB)':>13}{'plain (MiB)':>14}{'share':>8}"
)


def _format(row: dict[str, Any]) -> str:
    times = [statistics.median(row[f"{form}_ms"]) for form in ("ours", "reference")]
    text = (
        f"{row['suite']:14}{row['case']:20}{times[0]:12.1f}{times[1]:14.1f}{row['speedup']:15.1f}"
    )
    ours, reference = row["ours_extra_bytes"], row["reference_extra_bytes"]
    if ours is None or reference is None:
        return f"{text}   memory is measured on Linux only"
    share = ours / max(reference, 1)
    return f"{text}{ours / _MEBIBYTE:13.1f}{reference / _MEBIBYTE:14.1f}{share:8.1%}"


def _machine() -> str:
    return f"{platform.machine()} {platform.system()}, torch {torch.__version__}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.benchmark",
        description="Measure our forms against plain ones, in one run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    suites = f"{' or '.join(SUITES)}; all of them if none is named"
    add("suites", nargs="*", type=one_of(SUITES), metavar="suite", help=suites)
    add("--threads", type=number_from(1), default=2, help="of torch")
    add("--runs", type=number_from(1), default=9, help="counted runs of each form")
    add("--channels", type=number_from(4), default=256, help="of both maps, a multiple of 4")
    add("--height", type=number_from(1), default=64, help="of the coarse map")
    add("--width", type=number_from(1), default=64, help="of the coarse map")
    add("--output", type=Path, default=Path("output/benchmark.json"), help="JSON file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
