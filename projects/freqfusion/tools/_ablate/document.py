"""The document of the evidence: its tables between two marks, and its figures beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from freqfusion.tools._ablate.figures import draw
from freqfusion.tools._ablate.matrix import Matrix
from freqfusion.tools._ablate.rows import read_rows
from freqfusion.tools._ablate.scores import Scores
from freqfusion.tools._ablate.statistics import Estimate
from freqfusion.tools._ablate.tables import render

BEGIN = "<!-- measured: begin (python -m freqfusion.tools.ablate --write-docs) -->"
END = "<!-- measured: end -->"
_MADE_OF = "Description"


def write_document(matrix: Matrix, results: Path, document: Path) -> list[Path]:
    """Draw the figures and replace what stands between the marks; returns what was written.

    Raises:
        ValueError: for a document without marks, and for rows that cannot be read.
    """
    before, begin, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} lacks the lines {BEGIN!r} and {END!r} around its tables")
    rows = read_rows(results)
    written = [*_write_figures(matrix, rows, document)]
    document.write_text(
        f"{before}{BEGIN}\n{tables(matrix, rows, document)}\n{END}{after}", encoding="utf-8"
    )
    return [document, *written]


def tables(matrix: Matrix, rows: Iterable[Mapping[str, Any]], document: Path) -> str:
    """What stands between the marks."""
    rows = list(rows)
    sections = []
    for experiment in matrix.experiments.values():
        scores = Scores(experiment, rows)
        figure = figure_path(document, experiment.name).name if has_figure(scores) else None
        sections.append(render(scores, figure))
    return "\n\n".join(sections)


def has_figure(scores: Scores) -> bool:
    """Whether any pair of the experiment is measured."""
    experiment = scores.experiment
    return any(
        scores.gain(pair, path, value) is not None
        for pair in experiment.pairs
        for path in experiment.metrics.values()
        for value in experiment.values or (None,)
    )


def figure_path(document: Path, experiment: str) -> Path:
    """Where the figure of an experiment lies: docs/evidence-<experiment>.png."""
    return document.with_name(f"{document.stem}-{experiment.replace('_', '-')}.png")


def digest(scores: Scores) -> str:
    """The same for the same figure: of all that is drawn."""
    experiment = scores.experiment
    content = [
        [pair, title, value, _rounded(scores.gain(pair, path, value))]
        for pair in experiment.pairs
        for title, path in experiment.metrics.items()
        for value in experiment.values or (None,)
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _rounded(one: Estimate | None) -> tuple[float, float | None] | None:
    """To digits that do not depend on versions."""
    if one is None:
        return None
    return round(one.mean, 4), None if one.half is None else round(one.half, 4)


def made_of(figure: Path) -> str | None:
    """The digest of what a written figure shows."""
    from PIL import Image

    with Image.open(figure) as image:
        text: str | None = image.info.get(_MADE_OF)
        return text


def _write_figures(matrix: Matrix, rows: list[dict[str, Any]], document: Path) -> Iterable[Path]:
    for experiment in matrix.experiments.values():
        scores = Scores(experiment, rows)
        path = figure_path(document, experiment.name)
        figure = draw(scores)
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        figure.savefig(path, dpi=110, metadata={_MADE_OF: digest(scores), "Software": None})
        yield path
