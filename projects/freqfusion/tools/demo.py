"""From nothing to a trained and drawn model: ``python -m freqfusion.tools.demo``.

Paints scenes, trains a small Panoptic FPN with FreqFusion on them by ``train_net.py``, measures
panoptic quality, mask AP and mean IoU on other scenes, and draws the predictions and the curves.
Runs from a checkout, on a CPU. Without Detectron2 it compares two networks in plain torch, one with
FreqFusion and one without.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqfusion.tools._arguments import number_from, parse, write_json
from freqfusion.tools._torch_demo import TorchDemo, compare_fusions

CONFIG = Path("configs/synthetic/panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml")
DATASET = "synthetic_panoptic_val_separated"
SIZE = "128x160"
NOTE = "demo.json"
# What tells an earlier demo, an interrupted one too, from other folders.
MARKS = ("datasets/synthetic", NOTE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit code: 0, or 2 for what the user can mend."""
    options = parse(_parser(), arguments)
    root = options.output
    try:
        if importlib.util.find_spec("detectron2") is None:
            note, summary = _without_detectron2(root, options)
        else:
            note, summary = _with_detectron2(root, options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    write_json(root / NOTE, note)
    print(summary)
    return 0


def _with_detectron2(root: Path, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Train, measure and draw a panoptic model; return the numbers and what to print."""
    started = time.perf_counter()
    _check_checkout()
    _clear(root)
    _synthesize(root, options)
    trained = time.perf_counter()
    _train(root, options)
    trained = time.perf_counter() - trained
    _draw(root, options)
    scores = _scores(root)
    note = {"seconds": time.perf_counter() - started, "training_seconds": trained, **scores}
    return note, _summary(root, note)


def _without_detectron2(root: Path, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Train and measure two networks in plain torch; return the same."""
    print(
        "Detectron2 is not installed, so this is the comparison of two networks in plain torch"
        " instead. 'make install' installs Detectron2; python -m freqfusion.tools.doctor tells"
        " more."
    )
    _clear(root)
    given = {name: getattr(options, name) for name in ("steps", "train", "val")}
    known = {name: value for name, value in given.items() if value is not None}
    note, summary = compare_fusions(TorchDemo(options.seed, **known))
    return note, f"{summary}\nnumbers: {root / NOTE}"


def _check_checkout() -> None:
    missing = [str(path) for path in (Path("train_net.py"), CONFIG) if not path.is_file()]
    if missing:
        raise ValueError(f"run this from a checkout of the project: there is no {missing[0]} here")


def _clear(root: Path) -> None:
    """Remove an earlier demo; ValueError for a folder that holds anything else."""
    if root.is_dir() and any(root.iterdir()):
        if not any((root / mark).exists() for mark in MARKS):
            raise ValueError(f"{root} holds something else; name another folder with --output")
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)


def _synthesize(root: Path, options: argparse.Namespace) -> None:
    scenes = ["--num-train", str(options.train or 400), "--num-val", str(options.val or 40)]
    output = ["--output", str(root / "datasets" / "synthetic"), "--seed", str(options.seed)]
    kind = ["--size", SIZE, "--detail", "simple"]
    _run(root, ["-m", "freqfusion.tools.synthesize", *output, *kind, *scenes])


def _train(root: Path, options: argparse.Namespace) -> None:
    keys = ["OUTPUT_DIR", str(root / "run"), "SEED", str(options.seed + 1)]
    if options.steps:
        keys += ["SOLVER.MAX_ITER", str(options.steps)]
    _run(root, ["train_net.py", "--config-file", str(CONFIG), *keys])


def _draw(root: Path, options: argparse.Namespace) -> None:
    weights = ["--weights", str(root / "run" / "model_final.pth")]
    chosen = ["--dataset", DATASET, "--limit", "12"]
    output = ["--output", str(root / "pictures")]
    config = ["--config-file", str(CONFIG)]
    _run(root, ["-m", "freqfusion.tools.visualize", *config, *weights, *chosen, *output])
    _run(root, ["-m", "freqfusion.tools.plot_metrics", str(root / "run"), "--output",
                  str(root / "curves.png")])  # fmt: skip


def _run(root: Path, command: Sequence[str]) -> None:
    """Run a step with the interpreter of this process, shown as a user would type it."""
    print(f"\n$ python {' '.join(command)}", flush=True)
    variables = os.environ | {"DETECTRON2_DATASETS": str(root / "datasets")}
    answer = subprocess.run([sys.executable, *command], env=variables, check=False)
    if answer.returncode:
        raise RuntimeError(f"the step above ended with exit status {answer.returncode}")


def _scores(root: Path) -> dict[str, float]:
    content = json.loads((root / "run" / "results.json").read_text(encoding="utf-8"))
    scores: Mapping[str, Any] = content["datasets"][DATASET]
    return {
        "PQ": scores["panoptic_seg"]["PQ"],
        "PQ of things": scores["panoptic_seg"]["PQ_th"],
        "PQ of stuff": scores["panoptic_seg"]["PQ_st"],
        "mask AP": scores["segm"]["AP"],
        "box AP": scores["bbox"]["AP"],
        "mIoU": scores["sem_seg"]["mIoU"],
    }


def _summary(root: Path, note: Mapping[str, float]) -> str:
    numbers = [f"{name:<14}{note[name]:6.1f}" for name in note if not name.endswith("seconds")]
    seconds = note["seconds"], note["training_seconds"]
    return "\n".join(
        [
            "",
            f"On scenes that the model has not seen ({seconds[0]:.0f} s in all, "
            f"{seconds[1]:.0f} s of them training and evaluation):",
            *(f"  {line}" for line in numbers),
            "",
            f"pictures  {root / 'pictures' / 'index.html'}",
            f"curves    {root / 'curves.png'}",
            f"run       {root / 'run'} (weights, log, metrics.json, results.json)",
            f"scenes    {root / 'datasets' / 'synthetic'}",
        ]
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.demo",
        description="Paint scenes, train a small panoptic model on them, measure it and draw it;"
        " without Detectron2, two networks in plain torch.",
    )
    add = parser.add_argument
    folder = "folder of everything (output/demo)"
    add("--output", type=Path, default=Path("output/demo"), metavar="DIR", help=folder)
    add("--seed", type=number_from(0), default=0, metavar="N", help="of scenes and weights (0)")
    steps = "training steps (those of the YAML; without Detectron2 240)"
    add("--steps", type=number_from(2), metavar="N", help=steps)
    scenes = "scenes to train on (400; without Detectron2 640)"
    add("--train", type=number_from(2), metavar="N", help=scenes)
    others = "scenes to measure on (40; without Detectron2 96)"
    add("--val", type=number_from(1), metavar="N", help=others)
    return parser


if __name__ == "__main__":
    sys.exit(main())
