"""Make the virtual environment of this repository, or find in a second that there is nothing to do.

Called by the Makefile; needs the standard library only. ``python scripts/bootstrap.py --help``
lists the options.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from bootstrapping.installation import Installation, InstallError
from bootstrapping.planning import Options
from bootstrapping.requirements import read_requirements, supports
from bootstrapping.source import Source, parse_source
from bootstrapping.state import exclusive, load_state
from bootstrapping.venv import Environment

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = "default"
REQUIRED = "FREQFUSION_REQUIRE_DETECTRON2"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--venv", type=Path, default=Path(".venv"), help="folder of the environment (%(default)s)"
    )
    parser.add_argument(
        "--detectron2",
        default="",
        metavar="PLACE",
        help=f"URL, wheel or folder that holds from now on; {DEFAULT!r}: the pinned commit again",
    )
    parser.add_argument(
        "--python-chosen",
        action="store_true",
        help="rebuild an environment that holds another Python than this one",
    )
    parser.add_argument(
        "--retry", action="store_true", help="try again to install a detectron2 that failed before"
    )
    parser.add_argument(
        "--oldest", action="store_true", help="install the lowest versions that setup.py allows"
    )
    parser.add_argument(
        "--note", action="store_true", help="only repeat what there is to say about detectron2"
    )
    return parser.parse_args(arguments)


def choose_source(named: str, default: str, environment: Environment) -> tuple[Source, str]:
    """Return detectron2's place, and the same as the user named it: now or in an earlier run.

    Raises ``ValueError`` for a place that is named now and cannot be; an earlier one is forgotten.
    """
    if named == DEFAULT:
        return parse_source(default), ""
    if named:
        return parse_source(named), named
    state = load_state(environment.path)
    if state is not None and state.chosen:
        try:
            return parse_source(state.chosen), state.chosen
        except ValueError:
            return parse_source(default), state.chosen
    return parse_source(default), ""


def interrupt(number: int, frame: object) -> NoReturn:
    """Treat a request to end like Ctrl-C, so that the running command is ended too."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Install what is missing; return 0 (ready), 1 (failed) or 2 (impossible as asked)."""
    options = parse_arguments(arguments)
    requirements = read_requirements(ROOT / "setup.py", oldest=options.oldest)
    if not supports(requirements.python, sys.version_info[:2]):
        version = ".".join(map(str, sys.version_info[:3]))
        print(
            f"freqfusion needs Python {requirements.python}, and this is {version}.",
            file=sys.stderr,
        )
        return 2
    environment = Environment(options.venv.expanduser().resolve())
    try:
        source, chosen = choose_source(options.detectron2, requirements.detectron2, environment)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    wanted = Options(
        root=ROOT,
        python_chosen=options.python_chosen,
        source_chosen=chosen,
        source_named_now=bool(options.detectron2),
        required=os.environ.get(REQUIRED, "") not in ("", "0"),
        retry=options.retry,
    )
    installation = Installation(environment, requirements, source, wanted)
    if options.note:
        note = installation.note()
        print(f"\n{note}" if note else "", end="\n" if note else "")
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        with exclusive(environment.path):
            print(installation.run(), flush=True)
    except InstallError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
