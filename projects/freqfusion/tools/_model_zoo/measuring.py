"""Measure recipes one after another; each is kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion.tools._model_zoo.catalogue import CONFIGS, Recipe, find_recipes
from freqfusion.tools._model_zoo.record import FILE, Rows, read_rows, updated, write_rows

Size = tuple[int, int]
_SIZE, _SCENE = (512, 512), (128, 160)


@dataclass(frozen=True)
class Wanted:
    """What is measured.

    Args:
        kept: What training keeps for gradients, too.
        rounds: To time a method and its baseline in; 0 takes no time.
        size: Height and width; None takes 512x512, or 128x160 for synthetic scenes.
        again: Measure what has numbers already.
    """

    kept: bool = False
    rounds: int = 0
    size: Size | None = None
    again: bool = False


def measure(root: Path, recipes: Sequence[Recipe], wanted: Wanted) -> Iterator[str]:
    """Measure what is not there yet and write it; a line about each recipe when it is done."""
    order = find_recipes(root)
    for number, recipe in enumerate(recipes, 1):
        rows = read_rows(root / FILE)
        size = wanted.size or (_SCENE if recipe.dataset == "synthetic" else _SIZE)
        found = _measured(root / CONFIGS, recipe, size, rows, wanted)
        if found:
            write_rows(
                root / FILE, updated(rows, recipe.name, {"size": list(size), **found}), order
            )
        yield f"[{number}/{len(recipes)}] {recipe.name}: {_said(found)}"


def _measured(
    configs: Path, recipe: Recipe, size: Size, rows: Rows, wanted: Wanted
) -> dict[str, Any]:
    """Numbers that the row of a recipe lacks."""
    from freqfusion.tools._model_zoo.counting import count, count_kept
    from freqfusion.tools._model_zoo.timing import compare

    row = rows.get(recipe.name, {})
    if wanted.again or row.get("size") != list(size):
        row = {}
    file = configs / recipe.name
    found: dict[str, Any] = {}
    if row.get("flops") is None or row.get("trainable") is None:
        found |= count(file, size)
    if wanted.kept and row.get("kept_bytes") is None:
        found["kept_bytes"] = count_kept(file, size)
    if wanted.rounds and recipe.prefix and row.get("time") is None:
        found["time"] = compare(file, configs / recipe.baseline, size, wanted.rounds)
    return found


def _said(found: dict[str, Any]) -> str:
    if not found:
        return "was there"
    parts = []
    if "flops" in found:
        parts.append(f"{found['parameters'] / 1e6:.2f} M, {found['flops'] / 1e9:.1f} GFLOPs")
    if "kept_bytes" in found:
        parts.append(f"{found['kept_bytes'] / (1 << 20):.0f} MiB for backward")
    if "time" in found:
        parts.append(f"{found['time']['ratio']:.2f} times its baseline")
    return ", ".join(parts)
