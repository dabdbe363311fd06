"""The section about what the model costs."""

from __future__ import annotations

from freqfusion.tools._analyze.measure import analyze
from freqfusion.tools._analyze.table import footer, header, rows_of
from freqfusion.tools._report.context import Context
from freqfusion.tools._report.section import Section, paragraphs, table
from freqfusion.tools._visualize.sources import read_image

_DEPTH = 2
_SIZE = (512, 512)


def costs(context: Context) -> Section:
    """Parameters, FLOPs, memory and time, at the size of the first image."""
    from freqfusion.data.randomness import separate_randomness
    from freqfusion.engine.unchanged import unchanged

    size = _SIZE
    if context.sources:
        planes = context.predictor.inputs(read_image(context.sources[0].path))["image"]
        size = (int(planes.shape[-2]), int(planes.shape[-1]))
    weights = {"config": context.config_file, "weights": context.cfg.MODEL.WEIGHTS}
    # A training step of the measurement changes running statistics.
    with separate_randomness(0), unchanged(context.model):
        result = weights | analyze(context.cfg, context.model, size, context.runs)
    body = paragraphs(*header(result)[1:])
    body += table(rows_of(result, _DEPTH), title=f"parts down to level {_DEPTH}")
    notes = paragraphs(*footer(result))
    return Section("Parameters, FLOPs, memory and time", body + _folded("What is counted", notes))


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{title}</summary>{body}</details>"
