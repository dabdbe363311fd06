"""MODEL_ZOO.md: a table for each data set and task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from freqfusion.tools._markdown import table
from freqfusion.tools._model_zoo.catalogue import CONFIGS, DATASETS, METHODS, Recipe
from freqfusion.tools._model_zoo.published import PUBLISHED, published_for
from freqfusion.tools._model_zoo.record import Rows
from freqfusion.tools._model_zoo.synthetic import Run, result_of

FILE = Path("MODEL_ZOO.md")
NOT_MEASURED = "not measured"
_MEBIBYTE = 1 << 20
_INTRODUCTION = """\
# Model zoo

Written by `python -m freqfusion.tools.model_zoo` from `configs/`, `results/model-zoo.json`
(counted and timed here), `results/ablation/` (trained here) and the list of published numbers in
the tool; a test holds them together. Every recipe stands below its baseline, from which it
differs by its switch. There are no trained weights to download.
[docs/recipes.md](docs/recipes.md) has the commands.{evidence}

* **Parameters** and **FLOPs** (inference, a multiply-add counts once) are counted on one image of
  the size in the table's first line. A detector has all the proposals and objects that it may
  have, mostly 1000 and 100: random weights would find a few, a trained model finds fewer.
* **For backward**: what a training step on that image keeps for gradients in float32, without
  parameters. Mixed precision keeps less.
* **Time**: inference in processor time of one thread, in that of the baseline, median of rounds
  in turn with the lowest and highest. A GPU has another ratio.
* **Published** numbers are the authors', from the sources at the end. We have reproduced none of
  them: nobody has trained these recipes on the real data sets yet. Where it says "none quoted",
  we have no source before us.
"""
_EVIDENCE = "\n[docs/evidence.md](docs/evidence.md) compares all methods on synthetic scenes."
_COSTS = ("parameters (M)", "FLOPs (G)", "for backward (MiB)", "time")


def render(recipes: Sequence[Recipe], rows: Rows, runs: Sequence[Run], *, evidence: bool) -> str:
    """The whole document; with ``evidence`` it leads to docs/evidence.md."""
    parts = [_INTRODUCTION.format(evidence=_EVIDENCE if evidence else "")]
    for dataset, group in groupby(recipes, lambda recipe: recipe.dataset):
        parts.append(f"## {DATASETS[dataset]}\n")
        for task, members in groupby(group, lambda recipe: recipe.task):
            listed = list(members)
            title = task.replace("-", " ").capitalize()
            parts += [f"### {title}{_size_of(listed, rows)}\n", _table(listed, rows, runs) + "\n"]
    return "\n".join([*parts, _sources()])


def _size_of(recipes: Sequence[Recipe], rows: Rows) -> str:
    """The sizes that were measured at, to follow a title."""
    sizes = dict.fromkeys(
        "x".join(map(str, rows[recipe.name]["size"]))
        for recipe in recipes
        if recipe.name in rows and rows[recipe.name]["size"]
    )
    return f", {' and '.join(sizes)} pixels" if sizes else ""


def _table(recipes: Sequence[Recipe], rows: Rows, runs: Sequence[Run]) -> str:
    scenes = recipes[0].dataset == "synthetic"
    last = "our result, mean ± deviation" if scenes else "published"
    lines = []
    for recipe in recipes:
        link = f"[{Path(recipe.name).stem}]({CONFIGS}/{recipe.name})"
        result = result_of(recipe, runs) or NOT_MEASURED if scenes else _quoted(recipe)
        costs = _costs(recipe, rows.get(recipe.name, {}))
        lines.append([link, METHODS[recipe.prefix], *costs, result])
    return table(("configuration", "method", *_COSTS, last), lines)


def _costs(recipe: Recipe, row: dict[str, Any]) -> Iterator[str]:
    for key, unit, digits in (
        ("parameters", 1e6, 2),
        ("flops", 1e9, 1),
        ("kept_bytes", _MEBIBYTE, 0),
    ):
        value = row.get(key)
        yield NOT_MEASURED if value is None else f"{value / unit:.{digits}f}"
    time = row.get("time")
    if not recipe.prefix:
        yield "1"
    elif time is None:
        yield NOT_MEASURED
    else:
        yield f"{time['ratio']:.2f} ({time['lowest']:.2f} to {time['highest']:.2f})"


def _quoted(recipe: Recipe) -> str:
    published = published_for(recipe.name)
    if published is None:
        return "none quoted"
    return f"{published.text} [{PUBLISHED.index(published) + 1}]"


def _sources() -> str:
    """Everything that is quoted, numbered, with where it stands and what it leaves open."""
    lines = ["## Published numbers and their sources\n"]
    for number, one in enumerate(PUBLISHED, 1):
        note = f" ({one.difference})" if one.difference else ""
        lines.append(f"{number}. {one.text}: {one.source}{note}.")
    return "\n".join(lines) + "\n"
