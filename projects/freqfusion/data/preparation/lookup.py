"""New labels for each pixel by a table of 256 entries, for many files at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from freqfusion.data.preparation.output import Derived, Options, missing, read_labels, save_png
from freqfusion.data.synthetic.parallel import check_workers, run_in_order

FORBIDDEN = -1


def lookup_table(labels: Mapping[int, int], default: int = FORBIDDEN) -> NDArray[np.int16]:
    """New label of each old one from 0 to 255; ``FORBIDDEN`` makes an old label an error."""
    table = np.full(256, default, dtype=np.int16)
    for old, new in labels.items():
        table[old] = new
    return table


def relabel(labels: NDArray[np.uint8], table: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Look every pixel up; ValueError for labels that the table forbids."""
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    wrong = found[table[found] == FORBIDDEN]
    if len(wrong):
        allowed = np.flatnonzero(table != FORBIDDEN)
        raise ValueError(
            f"has the labels {', '.join(map(str, wrong[:8]))}, but allowed are"
            f" {allowed.min()}..{allowed.max()}"
        )
    return table.astype(np.uint8)[labels]


def relabel_files(
    sources: Sequence[Path],
    targets: Sequence[Path],
    table: NDArray[np.int16],
    *,
    place: Path,
    options: Options,
) -> Derived:
    """Write each target that is not there from the source at the same position."""
    chosen = missing(targets, options.overwrite)
    jobs = [_Job(sources[n], targets[n], table) for n in chosen]
    run_in_order(
        _relabel_file,
        jobs,
        workers=check_workers(options.workers),
        title=place.name,
        progress=options.progress and bool(jobs),
        unit="image",
    )
    return Derived(place, len(jobs), len(targets) - len(jobs))


@dataclass(frozen=True, slots=True)
class _Job:
    source: Path
    target: Path
    table: NDArray[np.int16]


def _relabel_file(job: _Job) -> None:
    labels = read_labels(job.source)
    try:
        save_png(job.target, relabel(labels, job.table))
    except ValueError as error:
        raise ValueError(f"{job.source} {error}") from error
