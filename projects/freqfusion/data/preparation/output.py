"""Files that are there completely or not at all, and what was done about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqfusion.data.validation.pictures import UNREADABLE
from freqfusion.files import write_whole


@dataclass(frozen=True, slots=True)
class Derived:
    """What one step wrote to ``place``, and how many files were there already."""

    place: Path
    written: int
    present: int

    def sentence(self) -> str:
        """One line for the user."""
        return f"{self.place}: {self.written} written, {self.present} there already"


@dataclass(frozen=True, slots=True)
class Options:
    """How to work; ``workers`` None means one process a processor."""

    workers: int | None = None
    overwrite: bool = False
    progress: bool = True


def save_png(path: Path, pixels: NDArray[Any]) -> None:
    """Write a PNG; an interruption leaves the file absent or as it was."""
    picture = Image.fromarray(pixels)
    write_whole(path, lambda partial: picture.save(partial, "PNG", compress_level=4))


def save_json(path: Path, content: Any) -> None:
    """Write JSON on one line; an interruption leaves the file absent or as it was."""
    write_whole(path, json.dumps(content, separators=(",", ":")) + "\n")


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Labels of an 8 bit grey or palette picture; ValueError for any other file."""
    try:
        with Image.open(path) as picture:
            pixels, mode = np.asarray(picture), picture.mode
    except UNREADABLE as error:
        raise ValueError(f"cannot read {path}: {error}; replace it by a fresh copy") from error
    if mode not in ("L", "P"):
        raise ValueError(
            f"{path} is a picture of mode {mode}, but labels are 8 bit grey or palette (L or P);"
            " is it the file of the download?"
        )
    return pixels


def require_folder(path: Path, advice: str) -> Path:
    """Return a folder; ValueError with ``advice`` if it is not there."""
    if not path.is_dir():
        raise ValueError(f"there is no folder {path}; {advice}")
    return path


def missing(targets: Sequence[Path], overwrite: bool) -> list[int]:
    """Positions of the files that are to be written."""
    return [n for n, target in enumerate(targets) if overwrite or not target.is_file()]
