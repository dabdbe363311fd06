"""What each map of a trained backbone knows: ``python -m benchmarks.probe``.

A linear classifier is fitted to the frozen map of each stage alone, and to all of them together,
for models that ``python -m benchmarks.ablation --only semantic_fpn --keep-weights`` has trained:
with SFM, whose maps are back on the lattice of the image, and without. The IoU of thin classes says
how much of their detail a map has. Writes ``results/probe.json`` and its part of
``docs/evidence.md``; ``--write-docs`` writes the latter alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.ablation_matrix import Run, plan, read_matrix
from benchmarks.ablation_page import difference_text, estimate, interval_text, paired
from benchmarks.ablation_training import prepare_data
from benchmarks.documents import CHECKOUT, SCHEMA, read_json, table, write_json, write_marked
from freqfusion.analysis.figures import BLUE, ORANGE, new_figure, quiet
from freqfusion.metrics import ConfusionMatrix

EXPERIMENT = "semantic_fpn"
METHODS = {"nearest": "without SFM", "sfm_pyramid": "with SFM"}
STAGES = ("res2", "res3", "res4", "res5")
MAPS = (*STAGES, "all")
RESULTS = CHECKOUT / "results/probe.json"
DOCUMENT = CHECKOUT / "docs/evidence.md"
COMMAND = "python -m benchmarks.probe --write-docs"
_STEPS, _BATCH = 200, 8


class LinearProbe(nn.Module):
    """One 1x1 convolution for each map, the sum of their logits at the size of the labels."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for width in channels)
        self.classifiers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in channels)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return the logits."""
        parts = [
            F.interpolate(classify(norm(one)), tuple(size), mode="bilinear", align_corners=False)
            for one, norm, classify in zip(maps, self.norms, self.classifiers, strict=True)
        ]
        return torch.stack(parts).sum(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe the models whose weights are there; return 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description=__doc__)
    where = "folder of the runs (output/ablation)"
    parser.add_argument("--output", type=Path, default=Path("output/ablation"), help=where)
    add = parser.add_argument
    add("--write-docs", action="store_true", help="write the part of docs/evidence.md alone")
    options = parser.parse_args(arguments)
    try:
        if not options.write_docs:
            write_json(RESULTS, measure(options.output))
        write_marked(DOCUMENT, COMMAND, render(read_json(RESULTS)))
        draw(read_json(RESULTS)).savefig(
            DOCUMENT.with_name("evidence-probe.png"), dpi=110, metadata={"Software": None}
        )
    except (OSError, ValueError, RuntimeError) as error:
        print(f"probe: {error}", file=sys.stderr)
        return 2
    return 0


def measure(output: Path) -> dict[str, Any]:
    """Return the thin IoU of the probes by method and map, one for each seed.

    Raises:
        ValueError: for weights that are not there, with the command that writes them.
    """
    matrix = read_matrix(CHECKOUT / "benchmarks/ablation.yaml")
    scores: dict[str, dict[str, list[float]]] = {}
    for run in plan(matrix, output, [EXPERIMENT], tuple(METHODS)):
        weights = output / EXPERIMENT / run.row.stem / "model_final.pth"
        if not weights.is_file():
            command = f"python -m benchmarks.ablation --only {EXPERIMENT} --keep-weights"
            raise ValueError(f"{weights} is not there; it is written by: {command}")
        os.environ["DETECTRON2_DATASETS"] = str(prepare_data(run, output / "data"))
        for name, score in probe(run, weights).items():
            print(f"{run.name} {name}: thin IoU {score:.1f}", flush=True)
            scores.setdefault(run.method, {}).setdefault(name, []).append(score)
    return {"schema": SCHEMA, "thin_iou": scores}


def render(content: Mapping[str, Any]) -> str:
    """Return the table of the probes."""
    scores = content["thin_iou"]
    lines = []
    for name in MAPS:
        plain, ours = (scores[method][name] for method in METHODS)
        gain = paired(dict(enumerate(ours)), dict(enumerate(plain)))
        means = [interval_text(estimate(values)) for values in (plain, ours)]
        lines.append([name, *means, difference_text(gain)])
    return table(["map", *METHODS.values(), "difference, paired by seed"], lines)


def draw(content: Mapping[str, Any]) -> Any:
    """Return the figure of the probes: thin IoU by map, a line for each method."""
    figure = new_figure(5.2, 3.0)
    axis = figure.subplots()
    quiet(axis)
    for (method, title), color in zip(METHODS.items(), (ORANGE, BLUE), strict=True):
        found = [estimate(content["thin_iou"][method][name]) for name in MAPS]
        means = [one.mean for one in found if one]
        halves = [one.half or 0.0 for one in found if one]
        axis.errorbar(MAPS, means, yerr=halves, color=color, fmt="o", capsize=3, label=title)
    axis.set_ylabel("thin IoU of a linear probe", fontsize=9)
    axis.legend(frameon=False, fontsize=9)
    return figure


def probe(run: Run, weights: Path) -> dict[str, float]:
    """Return the thin IoU of a probe on each stage and on all of them, in percent."""
    from detectron2.data import MetadataCatalog

    from freqfusion import Predictor

    overrides = [part for pair in run.overrides.items() for part in pair]
    predictor = Predictor(run.config, weights, device="cpu", overrides=overrides)
    splits = predictor.cfg.DATASETS.TRAIN[0], predictor.cfg.DATASETS.TEST[0]
    train, test = (frozen_maps(predictor.model, split) for split in splits)
    metadata = MetadataCatalog.get(splits[1])
    thin = [metadata.stuff_classes.index(name) for name in metadata.thin_classes]
    found = {}
    for names in (*([stage] for stage in STAGES), STAGES):
        torch.manual_seed(run.seed)
        fitted = fit(train, names, len(metadata.stuff_classes))
        found["all" if len(names) > 1 else names[0]] = thin_iou(fitted, test, names, thin)
    return found


def frozen_maps(model: Any, split: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return the maps of all images of a data set, and their labels."""
    from detectron2.data import DatasetCatalog

    backbone = getattr(model.backbone, "bottom_up", model.backbone)
    maps: dict[str, list[Tensor]] = {stage: [] for stage in STAGES}
    labels = []
    for entry in DatasetCatalog.get(split):
        image = np.asarray(Image.open(entry["file_name"]).convert("RGB"))[..., ::-1]
        pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))
        with torch.no_grad():
            features = backbone(((pixels - model.pixel_mean) / model.pixel_std)[None])
        for stage in STAGES:
            maps[stage].append(features[stage])
        labels.append(
            torch.from_numpy(np.asarray(Image.open(entry["sem_seg_file_name"])).astype(int))
        )
    return {stage: torch.cat(parts) for stage, parts in maps.items()}, torch.stack(labels)


def fit(
    data: tuple[Mapping[str, Tensor], Tensor], stages: Sequence[str], num_classes: int
) -> LinearProbe:
    """Return a probe of some stages, fitted with Adam."""
    maps, labels = data
    probe = LinearProbe([maps[stage].shape[1] for stage in stages], num_classes)
    optimizer = torch.optim.Adam(probe.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
    for _ in range(_STEPS):
        batch = torch.randint(len(labels), (_BATCH,))
        logits = probe([maps[stage][batch] for stage in stages], labels.shape[1:])
        loss = F.cross_entropy(logits, labels[batch], ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def thin_iou(
    probe: LinearProbe,
    data: tuple[Mapping[str, Tensor], Tensor],
    stages: Sequence[str],
    thin: Sequence[int],
) -> float:
    """Return the mean IoU of the thin classes, in percent."""
    maps, labels = data
    counts = ConfusionMatrix(probe.num_classes)
    for batch in torch.arange(len(labels)).split(_BATCH):
        logits = probe([maps[stage][batch] for stage in stages], labels.shape[1:])
        counts.update(logits.argmax(1).numpy(), labels[batch].numpy())
    return float(100 * counts.iou()[list(thin)].mean())


if __name__ == "__main__":
    sys.exit(main())
