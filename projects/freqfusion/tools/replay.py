"""Run a step again that was not finite: ``python -m freqfusion.tools.replay DUMP``.

A run writes such steps to ``non_finite`` in its output folder (``SOLVER.NON_FINITE``): batch,
weights, random states and configuration. The tool says what was found then and what is found now;
its exit code is 0 where the step is not finite again, 1 where it is finite, as it may be on another
device.
"""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay one dump; returns the exit code, which is 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.replay", description=__doc__.splitlines()[0]
    )
    parser.add_argument("dump", metavar="DUMP", help="a file iter_<number>.pth of a run")
    parser.add_argument("--device", help="instead of that of the run, for instance cpu")
    options = parser.parse_args(arguments)
    try:
        from freqfusion.engine.health.replay import replay
    except ImportError as error:
        print(f"replay: {error}; see INSTALL.md for Detectron2", file=sys.stderr)
        return 2
    try:
        dump, finding = replay(options.dump, device=options.device)
    except (ValueError, OSError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    print(f"iteration {dump.iteration}, rank {dump.rank}, {dump.precision}")
    print(f"then: {dump.sentence}")
    print(f"now: {finding.sentence()}")
    return 0 if finding else 1


if __name__ == "__main__":
    sys.exit(main())
