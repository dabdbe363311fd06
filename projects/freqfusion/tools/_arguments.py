"""Types of command-line arguments that several tools share."""

import argparse
import math
import re
from collections.abc import Callable, Iterable


def number_from(lowest: int) -> Callable[[str], int]:
    """A whole number that is not below ``lowest``."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} on")
        return int(text)

    return number


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """One of several words; unlike ``choices`` it can be used where none may be given."""
    known = tuple(names)

    def name(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return text

    return name


def parse_size(text: str) -> tuple[int, int]:
    """``"256x512"`` -> (256, 512), height first."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; write HEIGHTxWIDTH, for instance 256x512"
        )
    return int(match[1]), int(match[2])


def unit_score(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score from 0 to 1")
    return value
