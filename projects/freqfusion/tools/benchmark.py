"""Measure our forms against plain ones: ``python -m freqfusion.tools.benchmark reassemble``.

Both forms of a case compute the same maths and run in turn in the same process, after their results
have been compared; whole models are compared with the same models without FreqFusion or SFM.
Medians of milliseconds, float32; memory is the peak beyond inputs and results, each form in a
process of its own. Beside them stand the least bytes and operations of the case and the rate of a
copy, measured in the same process. With ``--sizes`` our forms run at several image sizes instead.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from freqfusion.tools._arguments import number_from, one_of
from freqfusion.tools._benchmark.measuring import measure, measure_size
from freqfusion.tools._benchmark.record import (
    machine,
    merged,
    new_record,
    read_record,
    write_record,
)
from freqfusion.tools._benchmark.suite import Size
from freqfusion.tools._benchmark.suites import SUITES
from freqfusion.tools._benchmark.tables import render, write_into

_MEBIBYTE = 1 << 20
_NEEDING_DETECTRON2 = ("data", "models")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen suites; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if not options.only_docs:
            _run(options)
        if options.write_docs or options.only_docs:
            document = Path("docs/performance.md")
            write_into(document, render(read_record(options.output)))
            print(f"Tables: {document}")
    except ImportError as error:
        wanted = " and ".join(_NEEDING_DETECTRON2)
        print(f"benchmark: {error}: the suites {wanted} need Detectron2", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    """Measure, print row by row, and write the record."""
    record = new_record(options.runs)
    suites = options.suites or SUITES
    if options.sizes:
        print(f"{machine()}, {options.threads} threads, median of {options.runs} runs\n")
        print(f"{'suite':18}{'case':42}{'image':>7}{'ms':>10}{'ns per pixel':>14}")
        for suite, case in _cases(suites):
            for length in options.sizes:
                size = Size.of_image(options.channels, length)
                row = measure_size(suite, case, size, options.runs, options.threads)
                record["sizes"].append(row)
                print(_format_size(row), flush=True)
    else:
        size = Size(options.channels, options.height, options.width)
        about = f"{options.threads} threads, {size}, median of {options.runs} runs"
        print(f"{machine()}, {about}\n\n{_HEADER}")
        for suite, case in _cases(suites):
            record["rows"].append(measure(suite, case, size, options.runs, options.threads))
            print(_format(record["rows"][-1]), flush=True)
    if options.append and options.output.exists():
        record = merged(read_record(options.output), record)
    write_record(options.output, record)
    print(f"\nNumbers: {options.output}")


def _cases(suites: Iterable[str]) -> list[tuple[str, str]]:
    return [(suite, case) for suite in suites for case in SUITES[suite].cases]


_HEADER = (
    f"{'suite':18}{'case':42}{'ours (ms)':>11}{'plain (ms)':>12}{'times as fast':>24}"
    f"{'ours (MiB)':>12}{'plain (MiB)':>13}{'GB/s':>8}{'copy':>8}"
)


def _format(row: dict[str, Any]) -> str:
    times = [statistics.median(row[f"{form}_ms"]) for form in ("ours", "reference")]
    low, high = row["speedup_quartiles"]
    ratio = f"{row['speedup']:.2f} ({low:.2f} to {high:.2f})"
    text = f"{row['suite']:18}{row['case']:42}{times[0]:11.1f}{times[1]:12.1f}{ratio:>24}"
    ours, reference = row["ours_extra_bytes"], row["reference_extra_bytes"]
    if ours is None or reference is None:
        text += " " * 25
    else:
        text += f"{ours / _MEBIBYTE:12.1f}{reference / _MEBIBYTE:13.1f}"
    if row["achieved_gb_per_s"] is None:
        return text.rstrip()
    return f"{text}{row['achieved_gb_per_s']:8.2f}{row['copy_gb_per_s']:8.1f}"


def _format_size(row: dict[str, Any]) -> str:
    time = statistics.median(row["ours_ms"])
    name = f"{row['suite']:18}{row['case']:42}{row['image']:7}"
    return f"{name}{time:10.1f}{row['ns_per_pixel']:14.2f}"


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
    add("--height", type=number_from(1), default=64, help="of the coarse map, at stride 8")
    add("--width", type=number_from(1), default=64, help="of the coarse map, at stride 8")
    sizes = "pixels of square images; our forms are timed on the maps of each, in place of height"
    add("--sizes", type=number_from(64), nargs="+", metavar="PIXELS", help=sizes)
    add("--output", type=Path, default=Path("output/benchmark.json"), help="JSON file to write")
    add("--append", action="store_true", help="keep the file's rows that are not measured again")
    docs = "write the tables of --output into docs/performance.md"
    add("--write-docs", action="store_true", help=docs)
    add("--only-docs", action="store_true", help=f"{docs}, and measure nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
