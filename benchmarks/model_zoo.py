"""Tables of all recipes, and commands in full size: ``python -m benchmarks.model_zoo``.

Writes the tables of docs/model-zoo.md and docs/recipes.md from the configurations, what was
measured of them (results/model-zoo.json), trained on synthetic scenes (results/ablation) and
published (benchmarks/model_zoo.yaml). ``--measure`` adds measurements before.

The file of what was measured::

    schema    1
    rows      a dict for each configuration:
                  config       path below configs/
                  parameters   of the model; trainable: those of them that it learns
                  size         height and width of the image for what follows
                  flops        of inference; a multiply-add counts once

Models without proposals are counted on the device "meta", which has shapes but no memory and no
work: the counters see the same operators. The heads of a detector depend on its proposals, so it
has to run; random weights throw boxes out of the image, so that boxes stay where their anchors are,
and none is left out for its score or its overlap with others: as many proposals and objects are
counted as it may have, whatever its weights are.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation_page import read_rows
from benchmarks.documents import CHECKOUT, SCHEMA, read_json, write_marked
from benchmarks.model_zoo_pages import (
    KNOWN,
    Recipe,
    choose_recipes,
    find_recipes,
    render_recipes,
    render_zoo,
)
from freqfusion.analysis import count_flops, count_parameters
from freqfusion.files import write_whole
from freqfusion.predictor import build_model, read_config
from freqfusion.tools._arguments import parse_size
from freqfusion.tools.analyze import random_image

COMMAND = "python -m benchmarks.model_zoo"
FILE = Path("results/model-zoo.json")
_SIZE, _SCENE = (512, 512), (128, 160)
# Convolutions and linear layers of Detectron2 that predict how far a box is moved.
_MOVES_BOXES = ("anchor_deltas", "bbox_pred")
Rows = dict[str, dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure if asked to, and write the documents; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.measure:
            for line in measure(options):
                print(line, flush=True)
        for path, text in render(options.root).items():
            write_marked(options.root / path, COMMAND, text)
            print(f"written: {options.root / path}")
    except (ValueError, OSError, ImportError) as error:
        print(f"model_zoo: {error}", file=sys.stderr)
        return 2
    return 0


def render(root: Path) -> dict[str, str]:
    """Return what the documents of a checkout show between their marks, by path below it."""
    from freqfusion.engine.setup import load_config

    costs = read_costs(root / FILE)
    zoo = render_zoo(find_recipes(root), costs, read_rows(root / "results" / "ablation"))
    cfgs = {config: load_config(str(root / "configs" / config)) for config in KNOWN["trainings"]}
    return {"docs/model-zoo.md": zoo, "docs/recipes.md": render_recipes(costs, cfgs)}


def measure(options: argparse.Namespace) -> Iterator[str]:
    """Measure what is missing and write it; yields a line about each recipe when it is done."""
    root, recipes = options.root, find_recipes(options.root)
    chosen = choose_recipes(recipes, options.configs)
    for number, recipe in enumerate(chosen, 1):
        size = options.size or (_SCENE if recipe.dataset == "synthetic" else _SIZE)
        rows, said = read_costs(root / FILE), "was there"
        if options.again or rows.get(recipe.name, {}).get("size") != list(size):
            found = count(root / "configs" / recipe.name, size)
            rows[recipe.name] = found
            write_costs(root / FILE, rows, recipes)
            said = f"{found['parameters'] / 1e6:.2f} M, {found['flops'] / 1e9:.1f} GFLOPs"
        yield f"[{number}/{len(chosen)}] {recipe.name}: {said}"


def count(file: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Return parameters, and FLOPs of inference on an image of ``size`` (height, width).

    The numbers are those of ``python -m freqfusion.tools.analyze``, of a detector with as many
    boxes as it may have.
    """
    cfg = offline_configuration(file)
    model = _without_memory(cfg) if _needs_no_numbers(cfg) else seeded_model(cfg)
    parameters = count_parameters(model)[""]
    image = random_image(cfg, size)
    image["image"] = image["image"].to(next(model.parameters()).device)
    return {
        "parameters": parameters.total,
        "trainable": parameters.trainable,
        "size": list(size),
        "flops": count_flops(model, [image]).total,
    }


def offline_configuration(file: Path) -> Any:
    """Return the configuration of a file, on the CPU, without weights to download."""
    cfg = read_config(str(file), "")
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.DEVICE = "cpu"
    # Below zero, since scores of random weights are often zero to the last digit.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = -1.0
    # Nothing overlaps more than wholly.
    cfg.MODEL.RPN.NMS_THRESH = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
    return cfg


def seeded_model(cfg: Any) -> Any:
    """Return a model with the same random weights each time, which move no boxes, in eval mode."""
    torch.manual_seed(0)
    model = build_model(cfg, needs_weights=False)
    for name, part in model.named_modules():
        if name.endswith(_MOVES_BOXES):
            torch.nn.init.zeros_(part.weight)
    return model


def read_costs(file: Path) -> Rows:
    """Return the numbers by configuration, none if there is no file; ValueError for a bad one."""
    if not file.is_file():
        return {}
    return {row["config"]: row for row in read_json(file)["rows"]}


def write_costs(file: Path, rows: Rows, order: Sequence[Recipe]) -> None:
    """Write the rows of configurations that exist, at once, so that a stop leaves a whole file."""
    listed = [
        {"config": recipe.name} | rows[recipe.name] for recipe in order if recipe.name in rows
    ]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in listed)
    write_whole(file, f'{{\n "schema": {SCHEMA},\n "rows": [\n{lines}\n ]\n}}\n')


def _needs_no_numbers(cfg: Any) -> bool:
    """Say whether what is computed follows from shapes: there are no proposals."""
    names = (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SFM.META_ARCHITECTURE)
    architecture = names[1] if names[0] == "SFMSegmentor" else names[0]
    return architecture in ("SemanticSegmentor", "Mask2Former")


def _without_memory(cfg: Any) -> Any:
    """Return the model on "meta"; Mask2Former without the choice of masks, which has no FLOPs."""
    from freqfusion.modeling.mask2former import Mask2Former

    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg, needs_weights=False)
    for part in model.modules():
        if isinstance(part, Mask2Former):
            part.panoptic_on = part.instance_on = False
    return model


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_zoo",
        description="Write docs/model-zoo.md and docs/recipes.md; measure recipes.",
    )
    add = parser.add_argument
    add("--root", type=Path, default=CHECKOUT, metavar="DIR", help="of the checkout; this one")
    add("--measure", action="store_true", help="measure what is missing, then write")
    configs = "measure those only, such as 'ade20k/*r50*'"
    add("--configs", nargs="+", default=("*",), metavar="PATTERN", help=configs)
    size = "of the image; 512x512, 128x160 for synthetic scenes"
    add("--size", type=parse_size, metavar="HxW", help=size)
    add("--again", action="store_true", help="measure what has numbers already")
    return parser


if __name__ == "__main__":
    sys.exit(main())
