"""Does FreqFusion help? A measured answer in two minutes: ``python -m freqfusion.tools.showcase``.

Trains two small encoder-decoders from the same seed on the same synthetic scenes, side by side, one
CPU core each. They differ in one thing: how a coarse map joins a finer one (bilinear upsampling and
addition, or FreqFusion). Prints mean IoU and class-wise boundary IoU on scenes that neither has
seen, whichever way they come out, and writes a figure.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from freqfusion.data.synthetic import CLASS_NAMES, NUM_CLASSES
from freqfusion.tools._arguments import number_from
from freqfusion.tools._showcase.figure import Drawn, draw
from freqfusion.tools._showcase.model import FUSIONS, build_model
from freqfusion.tools._showcase.training import Plan, evaluate, load_scenes, predict, train

_DRAWN_SCENES = 4


@dataclass(frozen=True)
class Outcome:
    """One trained network, measured."""

    fusion: str
    parameters: int
    seconds: float
    iou: list[float]
    mean_iou: float
    boundary_iou: list[float]
    mean_boundary_iou: float
    drawn: Drawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the showcase; returns the exit code."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        options.seed, options.steps, options.batch, options.train, options.test, options.size
    )
    started = time.perf_counter()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        outcomes = run(plan)
        figure = options.output / "showcase.png"
        _draw(plan, outcomes, figure)
        record = options.output / "showcase.json"
        record.write_text(json.dumps(_record(plan, outcomes), indent=2) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"showcase: {error}", file=sys.stderr)
        return 2
    seconds = time.perf_counter() - started
    print(_summary(plan, outcomes, seconds))
    print(f"\nFigure:  {figure}\nNumbers: {record}")
    return 0


def run(plan: Plan) -> list[Outcome]:
    """Train and measure all networks, each in a process of its own."""
    # One thread each: two networks on two cores finish sooner than one after the other on both.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(FUSIONS), mp_context=context) as pool:
        return list(pool.map(_train_and_measure, FUSIONS, [plan] * len(FUSIONS)))


def _train_and_measure(fusion: str, plan: Plan) -> Outcome:
    torch.set_num_threads(1)
    training, test = load_scenes(plan)
    model = build_model(fusion, NUM_CLASSES, plan.seed)
    started = time.perf_counter()
    train(model, training, plan, fusion, line=list(FUSIONS).index(fusion))
    seconds = time.perf_counter() - started
    confusion, boundary = evaluate(model, test)
    shown = test.images[:_DRAWN_SCENES]
    with torch.no_grad():
        norms = model.fused(shown).norm(dim=1).numpy()
    return Outcome(
        fusion,
        sum(parameter.numel() for parameter in model.parameters()),
        seconds,
        confusion.iou().tolist(),
        confusion.mean_iou(),
        boundary.iou().tolist(),
        boundary.mean_iou(),
        Drawn(predict(model, shown), norms),
    )


def _draw(plan: Plan, outcomes: Sequence[Outcome], path: Path) -> None:
    _, test = load_scenes(Plan(**{**asdict(plan), "train_scenes": 0, "test_scenes": _DRAWN_SCENES}))
    images = (test.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    truth = test.labels.byte().numpy()
    captions = {
        one.fusion: f"{one.fusion}\nmIoU {one.mean_iou:.1%}, boundary {one.mean_boundary_iou:.1%}"
        for one in outcomes
    }
    draw(images, truth, {one.fusion: one.drawn for one in outcomes}, captions, path)


def _record(plan: Plan, outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    networks = [{k: v for k, v in vars(one).items() if k != "drawn"} for one in outcomes]
    return {
        "plan": asdict(plan),
        "torch": torch.__version__,
        "classes": CLASS_NAMES,
        "networks": networks,
    }


def _summary(plan: Plan, outcomes: Sequence[Outcome], seconds: float) -> str:
    lines = [
        f"{plan.steps} steps of {plan.batch} scenes at {plan.size} x {plan.size}, seed {plan.seed};"
        f" measured on {plan.test_scenes} other scenes; {seconds:.0f} s in all",
        "",
        f"{'':16}" + "".join(f"{one.fusion:>16}" for one in outcomes),
        _line("mean IoU", [one.mean_iou for one in outcomes]),
        _line("boundary IoU", [one.mean_boundary_iou for one in outcomes]),
        "",
        "boundary IoU by class",
    ]
    for index, name in enumerate(CLASS_NAMES):
        lines.append(_line(f"  {name}", [one.boundary_iou[index] for one in outcomes]))
    lines.append("")
    lines.append(f"{'parameters':16}" + "".join(f"{one.parameters:16,}" for one in outcomes))
    lines.append(f"{'training (s)':16}" + "".join(f"{one.seconds:16.0f}" for one in outcomes))
    return "\n".join(lines)


def _line(title: str, scores: Sequence[float]) -> str:
    difference = f"{100 * (scores[-1] - scores[0]):+11.1f}" if len(scores) > 1 else ""
    return f"{title:16}" + "".join(f"{100 * score:16.1f}" for score in scores) + difference


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.showcase",
        description="Train two small networks that differ only in their fusion, and compare them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/showcase"), help="folder for figure and JSON")
    add("--seed", type=number_from(0), default=0, help="of the weights and the scenes")
    add("--steps", type=number_from(2), default=240, help="training steps")
    add("--batch", type=number_from(1), default=8, help="scenes per step")
    add("--train", type=number_from(1), default=640, help="training scenes")
    add("--test", type=number_from(_DRAWN_SCENES), default=96, help="test scenes")
    add("--size", type=number_from(32), default=96, help="height and width of the scenes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
