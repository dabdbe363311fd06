"""docs/model-zoo.md and docs/recipes.md: recipes with their costs, results and commands."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from benchmarks.documents import table

# What is known besides measurements; its comments say what its parts are.
KNOWN = yaml.safe_load(Path(__file__).with_name("model_zoo.yaml").read_text(encoding="utf-8"))
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
# Task -> the score that our results show, as it is called in a row, and in a table.
_SCORES = {
    "panoptic-segmentation": ("panoptic_seg/PQ", "PQ"),
    "instance-segmentation": ("segm/AP", "mask AP"),
    "semantic-segmentation": ("sem_seg/mIoU", "mIoU"),
}
CostRows = Mapping[str, Mapping[str, Any]]


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
        """Return the recipe that a path ending in ``<dataset>/<task>/<file>.yaml`` names."""
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
    """Return every ``configs/<dataset>/<task>/*.yaml`` that is no base, in the tables' order.

    Raises:
        ValueError: for one whose data set has no title here.
    """
    found = [
        Recipe.at(path)
        for path in (root / "configs").glob("*/*/*.yaml")
        if not path.name.startswith("Base-")
    ]
    unknown = sorted({recipe.dataset for recipe in found} - set(DATASETS))
    if unknown:
        raise ValueError(f"{unknown[0]} is not in DATASETS of {__name__}, which titles the tables")

    def order(recipe: Recipe) -> tuple[int, str, str, int]:
        dataset = list(DATASETS).index(recipe.dataset)
        return dataset, recipe.task, recipe.model, list(METHODS).index(recipe.prefix)

    return sorted(found, key=order)


def choose_recipes(recipes: Sequence[Recipe], patterns: Sequence[str]) -> list[Recipe]:
    """Return those that a pattern such as ``coco/*r50*`` fits; ValueError for one without any."""

    def fits(recipe: Recipe, pattern: str) -> bool:
        return fnmatch(recipe.name, pattern.removeprefix("configs/"))

    for pattern in patterns:
        if not any(fits(recipe, pattern) for recipe in recipes):
            raise ValueError(f"no recipe of configs fits {pattern!r}; try '*/*/*r50*'")
    return [recipe for recipe in recipes if any(fits(recipe, one) for one in patterns)]


def render_zoo(
    recipes: Sequence[Recipe], costs: CostRows, trained: Sequence[Mapping[str, Any]]
) -> str:
    """Return a table for each data set and task, and the sources of published numbers.

    ``costs`` are the rows of results/model-zoo.json by recipe, ``trained`` those of
    results/ablation.
    """
    parts = []
    for dataset, group in groupby(recipes, lambda recipe: recipe.dataset):
        parts.append(f"## {DATASETS[dataset]}")
        for task, members in groupby(group, lambda recipe: recipe.task):
            listed = list(members)
            rows = [costs.get(recipe.name, {}) for recipe in listed]
            sizes = dict.fromkeys("x".join(map(str, row["size"])) for row in rows if row)
            measured = f", {' and '.join(sizes)} pixels" if sizes else ""
            parts.append(f"### {task.replace('-', ' ').capitalize()}{measured}")
            columns = {
                "configuration": [
                    f"[{Path(one.name).stem}](../configs/{one.name})" for one in listed
                ],
                "method": [METHODS[one.prefix] for one in listed],
                "parameters (M)": [f"{r['parameters'] / 1e6:.2f}" if r else "" for r in rows],
                "FLOPs (G)": [f"{row['flops'] / 1e9:.1f}" if row else "" for row in rows],
                "our result, mean ± deviation": [our_result(one, trained) for one in listed],
                "published": [_quoted(one) for one in listed],
            }
            shown = {title: cells for title, cells in columns.items() if any(cells)}
            lines = [list(cells) for cells in zip(*shown.values(), strict=True)]
            parts.append(table(tuple(shown), lines))
    sources = [_source(n, one) for n, one in enumerate(KNOWN["published"], 1)]
    return "\n\n".join([*parts, "## Published numbers and their sources", "\n".join(sources)])


def our_result(recipe: Recipe, trained: Iterable[Mapping[str, Any]]) -> str:
    """Return mean, deviation and number of seeds of the experiment that trains the recipe."""
    wanted = KNOWN["trained"].get(recipe.name)
    if recipe.task not in _SCORES:
        return ""
    name, title = _SCORES[recipe.task]
    scores = [
        row["scores"][name]
        for row in trained
        if [row["experiment"], row["method"]] == wanted and row["scores"].get(name) is not None
    ]
    if not scores:
        return ""
    mean = f"{title} {statistics.fmean(scores):.1f}"
    if len(scores) == 1:
        return f"{mean} (1 seed)"
    return f"{mean} ± {statistics.stdev(scores):.1f} ({len(scores)} seeds)"


def _quoted(recipe: Recipe) -> str:
    for number, one in enumerate(KNOWN["published"], 1):
        if recipe.name in one.get("recipes", {}):
            return f"{one['recipes'][recipe.name]} [{number}]"
    return ""


def _source(number: int, published: Mapping[str, Any]) -> str:
    """Return a source with what it leaves open, and its numbers that no recipe has."""
    note = f"; {published['open']}" if "open" in published else ""
    others = [f"   * {text}" for text in published.get("others", ())]
    return "\n".join([f"{number}. {published['source']}{note}.", *others])


def published_of(name: str) -> str:
    """Return what is published of a recipe, with its source; nothing where nothing is."""
    for one in KNOWN["published"]:
        if name in one.get("recipes", {}):
            note = f"; {one['open']}" if "open" in one else ""
            return f"Published: {one['recipes'][name]} ({one['source']}{note})."
    return ""


def render_recipes(costs: CostRows, cfgs: Mapping[str, Any]) -> str:
    """Return the commands of trainings, and what they take; ``cfgs`` are their configurations."""
    parts = []
    for dataset, recipes in groupby(KNOWN["trainings"], lambda name: Path(name).parts[0]):
        prepare = f"```\npython -m freqfusion.tools.prepare {dataset}\n```"
        parts.append(f"## {DATASETS[dataset]}\n{prepare}")
        parts += [_training(name, cfgs[name], costs.get(name, {})) for name in recipes]
    return "\n\n".join(parts)


def _training(name: str, cfg: Any, row: Mapping[str, Any]) -> str:
    """Return the section of one training."""
    gpus = KNOWN["trainings"][name]
    command = f"torchrun --nproc-per-node {gpus} train_net.py --config-file configs/{name}"
    facts = [*training_facts(cfg, row, gpus), *filter(None, [published_of(name)])]
    lines = [
        f"### {Path(name).stem}",
        "```",
        command,
        f"{command} --eval-only MODEL.WEIGHTS {cfg.OUTPUT_DIR}/model_final.pth",
        "```",
        *(f"* {fact}" for fact in facts),
    ]
    return "\n".join(lines)


def training_facts(cfg: Any, row: Mapping[str, Any], gpus: int) -> list[str]:
    """Return what a training takes, in sentences: steps, time, and what the weights take."""
    steps, images = cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH
    counts = [
        next((count for start, count in KNOWN["images"].items() if name.startswith(start)), 0)
        for name in cfg.DATASETS.TRAIN
    ]
    epochs = f", {steps * images / sum(counts):.1f} epochs" if all(counts) else ""
    memory = "its parameters were not counted; --measure does"
    if row:
        averages = {"SGD": 1, "ADAMW": 2}[cfg.SOLVER.OPTIMIZER]
        state = 4 * (row["parameters"] + (1 + averages) * row["trainable"])
        memory = f"{state / (1 << 30):.2f} GiB of weights, gradients and averages for each GPU"
    return [
        f"Training: {steps} steps of {images} images ({images // gpus} for each GPU){epochs}.",
        f"Time, without evaluation: {steps / 3600:.1f} h for each second that a step takes.",
        f"Memory: {memory}.",
    ]
