"""Our results on synthetic scenes: the rows that the ablation tool writes, by recipe."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from freqfusion.tools._model_zoo.catalogue import CONFIGS, Recipe

FOLDER = Path("results/ablation")
# Task -> the score that its tables show, as it is called in a row, and in a table.
_SCORES = {
    "panoptic-segmentation": ("panoptic_seg/PQ", "PQ"),
    "instance-segmentation": ("segm/AP", "mask AP"),
    "semantic-segmentation": ("sem_seg/mIoU", "mIoU"),
}
# Prefix of a recipe -> methods of an experiment that are it.
_METHODS = {
    "": ("baseline", "nearest"),
    "freqfusion_": ("freqfusion",),
    "sfm_": ("sfm",),
    "sfm_freqfusion_": ("sfm_freqfusion",),
}


@dataclass(frozen=True)
class Run:
    """A trained model: where it belongs, and its scores by their names."""

    experiment: str
    method: str
    model: tuple[str, str]
    scores: dict[str, float]


def read_runs(folder: Path) -> list[Run]:
    """All runs under a folder, in the order of their paths; those of a curve are left out.

    Raises:
        ValueError: for a file that is no JSON.
    """
    runs = []
    for path in sorted(folder.rglob("*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read ({error}); delete it and run again") from error
        if not isinstance(row, dict) or "scores" not in row or row.get("dial") is not None:
            continue
        scores = {name: value for name, value in row["scores"].items() if value is not None}
        model = _model_of(Path(row["config_file"]))
        runs.append(Run(row["experiment"], row["method"], model, scores))
    return runs


def result_of(recipe: Recipe, runs: Sequence[Run]) -> str | None:
    """Mean, deviation and number of seeds of each experiment that trained the recipe; or None."""
    name, title = _SCORES[recipe.task]
    values: defaultdict[str, list[float]] = defaultdict(list)
    for run in runs:
        known = run.model == (recipe.task, recipe.model) and run.method in _names(recipe)
        if known and name in run.scores:
            values[run.experiment].append(run.scores[name])
    texts = [f"{key}: {title} {_spread(scores)}" for key, scores in values.items()]
    return "; ".join(texts) or None


def _names(recipe: Recipe) -> tuple[str, ...]:
    """What an experiment calls the recipe; Mask2Former's own way to join maps is bilinear."""
    if not recipe.prefix and recipe.model.startswith("mask2former"):
        return ("baseline", "bilinear")
    return _METHODS[recipe.prefix]


def _model_of(config: Path) -> tuple[str, str]:
    """Task and model of a configuration that experiments change by keys."""
    recipe = Recipe.at(config) if config.parts[:1] == (CONFIGS,) else None
    return (recipe.task, recipe.model) if recipe else ("", "")


def _spread(scores: Sequence[float]) -> str:
    mean, seeds = statistics.fmean(scores), len(scores)
    if seeds == 1:
        return f"{mean:.1f} (1 seed)"
    return f"{mean:.1f} ± {statistics.stdev(scores):.1f} ({seeds} seeds)"
