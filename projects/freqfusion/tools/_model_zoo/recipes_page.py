"""docs/recipes.md: the commands of trainings in full size, and what they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqfusion.tools._model_zoo.catalogue import CONFIGS, DATASETS
from freqfusion.tools._model_zoo.estimate import Estimate, estimate
from freqfusion.tools._model_zoo.published import published_for
from freqfusion.tools._model_zoo.record import EMPTY, Rows

FILE = Path("docs/recipes.md")
_GIBIBYTE = 1 << 30


@dataclass(frozen=True)
class Training:
    """A recipe that is shown: the name of its configuration, its model in words, and GPUs."""

    config: str
    title: str
    gpus: int


TRAININGS = (
    Training(
        "coco/panoptic-segmentation/freqfusion_panoptic_fpn_r50_1x.yaml",
        "Panoptic FPN with FreqFusion, R50",
        8,
    ),
    Training(
        "coco/panoptic-segmentation/freqfusion_mask2former_r50.yaml",
        "Mask2Former with FreqFusion, R50",
        8,
    ),
    Training(
        "cityscapes/semantic-segmentation/sfm_fcn_r50_d32.yaml",
        "FCN with Spatial Frequency Modulation, R50, output stride 32",
        4,
    ),
    Training(
        "cityscapes/panoptic-segmentation/freqfusion_panoptic_fpn_r50.yaml",
        "Panoptic FPN with FreqFusion, R50",
        8,
    ),
    Training(
        "ade20k/semantic-segmentation/sfm_mask2former_swin_t.yaml",
        "Mask2Former with Spatial Frequency Modulation, Swin-T",
        8,
    ),
    Training(
        "ade20k/semantic-segmentation/freqfusion_semantic_fpn_r50.yaml",
        "Semantic FPN with FreqFusion, R50",
        4,
    ),
)
_INTRODUCTION = """\
# Trainings in full size

Written by `python -m freqfusion.tools.model_zoo`; a test runs every line through the command
line's own parser. Nobody has run these to the end yet: what is quoted as published is the
authors'. [DATASETS.md](../DATASETS.md) says where images and labels lie. Every training evaluates
at its end and writes `results.json` beside the weights; `--resume` goes on after a stop. The
baseline of a recipe is the file without `freqfusion_` or `sfm_` in its name, with the same
commands.

**Time** depends on the machine, so it is given as hours for each second that a step takes.
Measure that in the first hundred steps, then have the rest computed:
```
{measure}
{estimate}
```
`--step-seconds 0.5` takes the place of `--metrics`. **Memory** is a lower bound for each GPU:
weights, gradients and the optimizer's averages in float32, and what the images of a step keep for
gradients, measured on one image (see [MODEL_ZOO.md](../MODEL_ZOO.md)) and scaled by the pixels of
the largest training image. Room for the computation itself comes on top; mixed precision keeps
less.
"""


def render(rows: Rows, cfgs: Sequence[Any]) -> str:
    """The whole document; ``cfgs`` are the configurations of ``TRAININGS``."""
    first = TRAININGS[0]
    hundred = "output/hundred_steps"
    parts = [
        _INTRODUCTION.format(
            measure=f"{train_command(first)} SOLVER.MAX_ITER 100 OUTPUT_DIR {hundred}",
            estimate=f"python -m freqfusion.tools.model_zoo --estimate {CONFIGS}/{first.config}"
            f" --gpus {first.gpus} --metrics {hundred}",
        )
    ]
    for dataset, title in DATASETS.items():
        shown = [pair for pair in zip(TRAININGS, cfgs, strict=True) if _is_of(pair[0], dataset)]
        if shown:
            parts.append(f"## {title}\n```\npython -m freqfusion.tools.prepare {dataset}\n```\n")
        parts += [_section(training, cfg, rows) for training, cfg in shown]
    return "\n".join(parts)


def train_command(training: Training) -> str:
    """One process for each GPU of this machine."""
    return (
        f"torchrun --nproc-per-node {training.gpus} train_net.py"
        f" --config-file {CONFIGS}/{training.config}"
    )


def evaluate_command(training: Training, cfg: Any) -> str:
    """Evaluate the weights that the training leaves."""
    return f"{train_command(training)} --eval-only MODEL.WEIGHTS {cfg.OUTPUT_DIR}/model_final.pth"


def _is_of(training: Training, dataset: str) -> bool:
    return training.config.startswith(f"{dataset}/")


def _section(training: Training, cfg: Any, rows: Rows) -> str:
    published = published_for(training.config)
    quoted = "none quoted"
    if published:
        note = f" ({published.difference})" if published.difference else ""
        quoted = f"{published.text}{note}; {published.source}"
    row = rows.get(training.config, EMPTY)
    facts = facts_of(estimate(cfg, row, training.gpus))
    lines = [
        f"### {training.title}",
        "```",
        train_command(training),
        evaluate_command(training, cfg),
        "```",
        *(f"* {fact}" for fact in facts),
        f"* Published: {quoted}.\n",
    ]
    return "\n".join(lines)


def facts_of(found: Estimate, step_seconds: float | None = None) -> list[str]:
    """What a training takes, in sentences."""
    epochs = "" if found.epochs is None else f", {found.epochs:.1f} epochs"
    if step_seconds is None:
        time = f"{found.hours(1):.1f} h for each second that a step takes"
    else:
        time = f"{found.hours(step_seconds):.1f} h at {step_seconds:.3f} s for a step"
    return [
        f"Training: {found.iterations} steps of {found.images_per_step} images"
        f" ({found.images_per_gpu} for each GPU){epochs}.",
        f"Time, without evaluation: {time}.",
        f"Memory: {_memory(found)}.",
    ]


def _memory(found: Estimate) -> str:
    if found.state_bytes is None:
        return "its parameters were not counted; --measure does"
    state = f"{found.state_bytes / _GIBIBYTE:.2f} GiB of weights, gradients and averages"
    if found.kept_bytes is None or found.memory_bytes is None:
        return f"{state}; what images keep was not measured; --measure --memory does"
    size = "x".join(map(str, found.size))
    return (
        f"at least {found.memory_bytes / _GIBIBYTE:.1f} GiB for each GPU: {state},"
        f" {found.kept_bytes / _GIBIBYTE:.2f} GiB for each image of {size}"
    )
