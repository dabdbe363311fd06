"""Describe what is wrong with a data set: where, what was found, what was expected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ERROR = "error"
NOTE = "note"
_PREPARE = "python -m freqfusion.tools.prepare"


@dataclass(frozen=True, slots=True)
class DatasetIssue:
    """One thing that is wrong (``severity`` "error") or worth knowing ("note").

    ``kind`` groups issues in a report; ``file`` is the file, the folder, or the configuration key
    that it is about.
    """

    severity: str
    kind: str
    file: str
    found: str
    expected: str
    dataset: str = ""

    def sentence(self) -> str:
        """Return where, what was found and what was expected, for a user."""
        return f"{self.file}: {self.found}; expected: {self.expected}"

    def __str__(self) -> str:
        return self.sentence()


class DatasetIssueError(ValueError):
    """Raised with a ``DatasetIssue`` where an image or its ground truth cannot be used."""


@contextmanager
def collect(issues: list[DatasetIssue]) -> Iterator[None]:
    """Append the issue to a list where one is raised."""
    try:
        yield
    except DatasetIssueError as raised:
        issues.append(raised.args[0])


def error(kind: str, file: object, found: str, expected: str) -> DatasetIssue:
    """Return an issue that breaks or falsifies training or evaluation."""
    return DatasetIssue(ERROR, kind, str(file), found, expected)


def note(kind: str, file: object, found: str, expected: str) -> DatasetIssue:
    """Return an issue that may be intended."""
    return DatasetIssue(NOTE, kind, str(file), found, expected)


def unusable(kind: str, file: object, found: str, expected: str) -> DatasetIssueError:
    """Return the exception to raise for an error after which nothing else can be checked."""
    return DatasetIssueError(error(kind, file, found, expected))


def repeated(file: str, what: str, values: Sequence[object], where: str = "") -> list[DatasetIssue]:
    """Return an error for each value that occurs more than once; ``where`` says of what."""
    return [
        error(f"repeated {what}", file, f"has the {what} {value!r}{where} {count} times", "it once")
        for value, count in Counter(values).items()
        if count > 1
    ]


def format_size(size: tuple[int, int]) -> str:
    """Return ``480 x 640 (height x width)``."""
    return f"{size[0]} x {size[1]} (height x width)"


def remedy(path: object) -> str:
    """Return ``" (made by ...)"`` for a derived file or folder, "" for one of a download."""
    parts = Path(str(path)).parts
    if {"annotations_detectron2", "camvid"} <= set(parts):
        return f" (made by {_PREPARE} camvid)"
    if "annotations_detectron2" in parts:
        return f" (made by {_PREPARE} ade20k)"
    cityscapes = ("cityscapes_panoptic_", "cityscapes_stuff_")
    if parts[-1].endswith("_labelTrainIds.png") or any(
        part.startswith(cityscapes) for part in parts
    ):
        return f" (made by {_PREPARE} cityscapes)"
    if any(part.startswith("panoptic_stuff_") for part in parts):
        if any(part.endswith(("train2017", "val2017")) for part in parts):
            return f" (made by {_PREPARE} coco)"
        return (
            f" (made by {_PREPARE} <declaration>.yaml from an own data set's panoptic files, by"
            " python -m freqfusion.tools.synthesize for synthetic scenes)"
        )
    if "synthetic" in parts:
        return " (made by python -m freqfusion.tools.synthesize)"
    return ""
