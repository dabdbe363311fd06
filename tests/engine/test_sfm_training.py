"""Training with Spatial Frequency Modulation does to attention and aliasing what it is for."""

import json
import time
from pathlib import Path

import pytest
from detectron2.checkpoint import DetectionCheckpointer

from freqfusion.data.synthetic import write_coco
from freqfusion.engine.command_line import argument_parser
from freqfusion.engine.setup import setup
from freqfusion.engine.trainer import Trainer
from freqfusion.tools import aliasing

pytestmark = [pytest.mark.e2e, pytest.mark.detectron2]

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/synthetic/semantic-segmentation/sfm_semantic_fpn_r18.yaml")
# Scenes twice as large as the demo's: in those the last modulated map has 8 x 10 pixels, nearly
# all of them on an edge.
SIZES = {
    "INPUT.MIN_SIZE_TRAIN": "(256,)",
    "INPUT.MAX_SIZE_TRAIN": "320",
    "INPUT.MIN_SIZE_TEST": "256",
    "INPUT.MAX_SIZE_TEST": "320",
}
SCHEDULE = {"SOLVER.IMS_PER_BATCH": "2", "SOLVER.MAX_ITER": "240", "SEED": "1"}
MINUTES = 10


def listed(keys):
    return [part for item in keys.items() for part in item]


def measured(weights, folder):
    """What the aliasing tool says, by feature."""
    arguments = ["--config-file", CONFIG, "--weights", str(weights), "--figures", "0"]
    arguments += ["--dataset", "synthetic_semantic_val", "--output", str(folder), *listed(SIZES)]
    assert aliasing.main(arguments) == 0
    stages = json.loads((folder / "aliasing.json").read_text())["stages"]
    return {stage["feature"]: stage for stage in stages if stage["is_modulated"]}


def mean(stage, name):
    return stage[name]["mean"]


def test_attention_follows_edges_and_every_stage_aliases_less(tmp_path, monkeypatch):
    """From the untrained network to the trained one, measured bicubically on unseen scenes."""
    write_coco(
        tmp_path / "synthetic",
        num_train=120,
        num_val=12,
        size=(256, 320),
        detail="simple",
        progress=False,
    )
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    keys = SIZES | SCHEDULE | {"OUTPUT_DIR": str(tmp_path / "out"), "DATASETS.TEST": "()"}
    cfg = setup(argument_parser().parse_args(["--config-file", CONFIG, *listed(keys)]))
    trainer = Trainer(cfg)
    DetectionCheckpointer(trainer.model, str(tmp_path)).save("start")
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began

    start = measured(tmp_path / "start.pth", tmp_path / "before")
    end = measured(tmp_path / "out" / "model_final.pth", tmp_path / "after")
    assert list(end) == ["res2", "res3", "res4"]
    for name, stage in end.items():
        assert mean(stage, "attention_edge_correlation") > 0.4, name
        # Untrained, nothing is moved yet.
        assert start[name]["largest_displacement"] < 1e-4
        assert mean(stage, "modulated") < mean(start[name], "modulated"), name
    # The training of everything else changes the maps too; what resampling by attention at the
    # right places does to the same maps is this. It shows where edges are a part of the map.
    for name in ("res2", "res3"):
        assert mean(end[name], "modulated") < mean(end[name], "control"), name
        assert mean(end[name], "control") < mean(end[name], "plain"), name
    assert seconds < MINUTES * 60
