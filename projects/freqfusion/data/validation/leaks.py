"""The same picture in several places, above all in training and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from freqfusion.data.validation.finding import Finding, error, note

_KIND = "the same picture twice"
Roles = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Copy:
    """Where a picture was found."""

    dataset: str
    path: str


def copy_findings(groups: Iterable[Iterable[Copy]], roles: Roles) -> list[Finding]:
    """Findings for pictures of equal pixels, which are a group.

    ``roles`` says which data sets are for training and which for evaluation. A picture of both is
    an error. Without roles, a picture of two data sets is an error, unless it is the same file:
    two descriptions of the same images may be asked about at once. Two files of one data set are
    a note.
    """
    findings = []
    for group in groups:
        # The files of each data set so far, in order.
        earlier: dict[str, dict[str, None]] = {}
        for copy in group:
            for dataset, files in earlier.items():
                finding = _compare(copy, dataset, files, roles)
                if finding is not None:
                    findings.append(replace(finding, dataset=copy.dataset))
            earlier.setdefault(copy.dataset, {})[copy.path] = None
    return findings


def _compare(copy: Copy, dataset: str, files: Mapping[str, None], roles: Roles) -> Finding | None:
    """A finding if a picture should not be one of the equal files of a data set."""
    first = next(iter(files))
    if copy.dataset == dataset:
        found = f"has the same pixels as {first}"
        return note(_KIND, copy.path, found, "each picture once in a data set")
    if copy.dataset in roles and dataset in roles:
        leaks = not roles[copy.dataset] & roles[dataset]
    else:
        leaks = copy.path not in files
    if not leaks:
        return None
    if copy.path in files:
        found = f"belongs to {dataset} and to {copy.dataset}"
    else:
        found = f"({copy.dataset}) has the same pixels as {first} ({dataset})"
    return error(_KIND, copy.path, found, "no picture both in training and in evaluation")
