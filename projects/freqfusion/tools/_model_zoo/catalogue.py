"""The recipes of ``configs/``: which there are, and which is the baseline of which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

CONFIGS = "configs"
# Prefix of a file's name -> the method, in the order of the tables.
METHODS = {
    "": "baseline",
    "freqfusion_": "FreqFusion",
    "sfm_": "SFM",
    "sfm_freqfusion_": "SFM + FreqFusion",
}
# Synthetic scenes are ours, so they come last.
DATASETS = {
    "coco": "COCO",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "camvid": "CamVid",
    "synthetic": "Synthetic scenes",
}


@dataclass(frozen=True)
class Recipe:
    """A configuration that can be trained.

    Args:
        dataset: Name of its folder.
        task: Name of the folder in that.
        prefix: That of its method, a key of ``METHODS``.
        model: The rest of its name, which is that of its baseline.
    """

    dataset: str
    task: str
    prefix: str
    model: str

    @classmethod
    def at(cls, path: Path) -> Recipe:
        """The recipe that a path ending in ``<dataset>/<task>/<file>.yaml`` names."""
        prefix = max((key for key in METHODS if path.stem.startswith(key)), key=len)
        dataset, task = path.parts[-3:-1]
        return cls(dataset, task, prefix, path.stem.removeprefix(prefix))

    @property
    def name(self) -> str:
        """The path below ``configs``."""
        return f"{self.dataset}/{self.task}/{self.prefix}{self.model}.yaml"

    @property
    def baseline(self) -> str:
        """The name of the model without the method."""
        return f"{self.dataset}/{self.task}/{self.model}.yaml"


def find_recipes(root: Path) -> list[Recipe]:
    """Every ``configs/<dataset>/<task>/*.yaml`` that is no base, in the order of the tables.

    Raises:
        ValueError: if there is none, or one whose data set has no title here.
    """
    found = [
        Recipe.at(path)
        for path in (root / CONFIGS).glob("*/*/*.yaml")
        if not path.name.startswith("Base-")
    ]
    if not found:
        raise ValueError(
            f"there are no recipes in {root / CONFIGS}; run from a checkout, or name one by --root"
        )
    unknown = sorted({recipe.dataset for recipe in found} - set(DATASETS))
    if unknown:
        raise ValueError(f"{unknown[0]} is not in DATASETS of {__name__}, which titles the tables")
    return sorted(found, key=_place)


def choose(recipes: Sequence[Recipe], patterns: Sequence[str]) -> list[Recipe]:
    """Those whose name fits a pattern such as ``coco/*r50*``; ValueError for one that none fits."""
    for pattern in patterns:
        if not any(_fits(recipe, pattern) for recipe in recipes):
            raise ValueError(f"no recipe of {CONFIGS} fits {pattern!r}; try '*/*/*r50*'")
    return [recipe for recipe in recipes if any(_fits(recipe, one) for one in patterns)]


def _fits(recipe: Recipe, pattern: str) -> bool:
    return fnmatch(recipe.name, pattern.removeprefix(f"{CONFIGS}/"))


def _place(recipe: Recipe) -> tuple[int, str, str, int]:
    order = list(DATASETS).index(recipe.dataset)
    return order, recipe.task, recipe.model, list(METHODS).index(recipe.prefix)
