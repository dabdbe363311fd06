"""What the command lines of several tools share: types of arguments, tables and JSON files."""

import argparse
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freqfusion.files import add_unsafe_config, write_whole
from freqfusion.messages import DEBUG, hide_deprecations


def model_parser(
    tool: str, description: str, *, config_required: bool = True, weights: str | None = None
) -> argparse.ArgumentParser:
    """Return a parser with the options of a tool that runs a model.

    Without ``--weights`` it has ``weights``: those of the configuration, or random ones for "".
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m freqfusion.tools.{tool}", description=description
    )
    add, default = parser.add_argument, "MODEL.WEIGHTS" if weights is None else "random weights"
    configuration = "the model's configuration (YAML)"
    add("--config-file", required=config_required, metavar="FILE", help=configuration)
    add_unsafe_config(parser)
    add("--weights", default=weights, metavar="FILE", help=f"checkpoint; not given: {default}")
    add("opts", nargs="*", metavar="KEY VALUE", help="changes of the configuration")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a tool; without ``--debug`` other packages' deprecations are hidden."""
    hide_deprecations(arguments)
    parser.add_argument(DEBUG, action="store_true", help="show deprecation warnings")
    return parser.parse_args(arguments)


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--dataset`` and ``--input``, one of which is required."""
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--dataset", metavar="NAME", help="a registered data set")
    images.add_argument(
        "--input", nargs="+", metavar="PATH", help="image files, folders or patterns like '*.jpg'"
    )


def number_from(lowest: int) -> Callable[[str], int]:
    """Return the type of a whole number that is not below ``lowest``."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} on")
        return int(text)

    return number


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Return the type of one of several words; unlike ``choices`` it works where none is given."""
    known = tuple(names)

    def name(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return text

    return name


def parse_size(text: str) -> tuple[int, int]:
    """Read ``"256x512"`` as (256, 512), height first."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write HEIGHTxWIDTH, for instance 256x512"
        )
    return int(match[1]), int(match[2])


def unit_score(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score from 0 to 1")
    return value


def text_table(rows: Sequence[Sequence[str]], *, words: int = 1) -> list[str]:
    """Return rows as lines, the first ``words`` columns to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < words else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def write_json(path: Path, content: Any) -> None:
    """Write plain data as a file, null in place of numbers that are not finite."""
    write_whole(path, json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
