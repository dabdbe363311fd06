"""Draw losses and scores of training runs: ``python -m freqfusion.tools.plot_metrics RUN ...``.

A run is an output folder of ``train_net.py``, or its ``metrics.json``. Several runs share the
panels, one for each metric; the last value of each line stands at its end.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from freqfusion.tools._arguments import number_from
from freqfusion.tools._plot_metrics.choosing import choose
from freqfusion.tools._plot_metrics.figure import FORMATS, draw_figure
from freqfusion.tools._plot_metrics.reading import read_runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the runs; returns the exit code: 0, or 2 for what the user can mend."""
    options = _parser().parse_args(arguments)
    try:
        _check_output(options.output)
        runs = read_runs(options.runs)
        groups = choose((name for run in runs for name in run.series), options.metrics)
        panels = draw_figure(runs, groups, options.output, options.smooth)
    except (ValueError, OSError) as error:
        print(f"plot_metrics: {error}", file=sys.stderr)
        return 2
    print(f"{len(runs)} runs, {panels} metrics\nfigure: {options.output}")
    return 0


def _check_output(path: Path) -> None:
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--output {path} must end in {', '.join(FORMATS)}")
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.plot_metrics",
        description="Draw losses, learning rate and scores of one or several training runs.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="output folder or metrics.json")
    add("--output", type=Path, required=True, metavar="FILE", help="*.png, *.svg or *.pdf")
    add(
        "--metrics",
        nargs="+",
        default=(),
        metavar="REGEX",
        help="draw what one of these fits; not given: losses, learning rate and mean scores",
    )
    add(
        "--smooth",
        type=number_from(1),
        default=20,
        metavar="N",
        help="average losses over N records, at most a tenth of all; 1 draws them as they are (20)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
