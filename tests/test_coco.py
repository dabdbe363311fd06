"""COCO for real: every step of a user, and our scores against those of others' programs.

``FREQFUSION_COCO`` names a folder in COCO's layout (``DATASETS.md``) with photographs; its training
and validation splits may be parts of COCO's.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("detectron2")

ROOT = Path(__file__).parents[1]
COCO = os.environ.get("FREQFUSION_COCO")
MODELS = ("freqfusion_panoptic_fpn_r50_1x", "freqfusion_mask2former_r50")
SIZES = ["INPUT.MIN_SIZE_TRAIN", "(128,)", "INPUT.MIN_SIZE_TEST", "128"]
SIZES += ["INPUT.MAX_SIZE_TEST", "192", "INPUT.SCALE_JITTER.SIZE", "(128,128)"]
TRAINING = ["MODEL.WEIGHTS", "", "MODEL.RESNETS.NORM", "BN", "MODEL.DEVICE", "cpu"]
TRAINING += ["MODEL.BACKBONE.FREEZE_AT", "0", "SOLVER.MAX_ITER", "10", "SOLVER.STEPS", "()"]
TRAINING += ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.0001", "DATALOADER.NUM_WORKERS", "0"]

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not COCO, reason="FREQFUSION_COCO names no folder of COCO"),
]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The data sets' folder, with COCO as it was downloaded."""
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "coco" / "annotations").mkdir(parents=True)
    for one in Path(COCO).iterdir():
        if one.name.startswith(("train2017", "val2017")) or one.name in (
            "panoptic_train2017",
            "panoptic_val2017",
        ):
            (folder / "coco" / one.name).symlink_to(one.resolve())
    for split in ("train2017", "val2017"):
        name = f"annotations/panoptic_{split}.json"
        shutil.copy(Path(COCO, name), folder / "coco" / name)
    return folder


@pytest.fixture(scope="module")
def run(datasets):
    """Run one of the commands; what it prints."""

    def command(tool, *words):
        done = subprocess.run(
            [sys.executable, "-m", f"freqfusion.tools.{tool}", *map(str, words)],
            env={**os.environ, "DETECTRON2_DATASETS": str(datasets)},
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return command


@pytest.fixture(scope="module")
def prepared(run, datasets):
    printed = run("prepare", "coco")
    assert "coco is ready" in printed
    return datasets / "coco"


@pytest.fixture(scope="module", params=MODELS)
def trained(run, prepared, request, tmp_path_factory):
    """The configuration and the folder of ten steps of training with their evaluation."""
    output = tmp_path_factory.mktemp(request.param)
    config = f"coco/panoptic-segmentation/{request.param}"
    words = ["--config-file", config, "--overwrite", *SIZES, *TRAINING, "OUTPUT_DIR", output]
    run("train", *words, "TEST.WRITE_PANOPTIC", "True")
    return config, output


def test_the_data_set_is_sound(run, prepared):
    config = f"coco/panoptic-segmentation/{MODELS[0]}"
    assert "no error" in run("check_dataset", "--config-file", config)


def test_training_and_evaluation(trained):
    results = json.loads((trained[1] / "results.json").read_text())
    scores = next(iter(results["results"].values()))["panoptic_seg"]
    assert 0 <= scores["PQ"] <= 100


def test_scores_are_those_of_panopticapi(trained, prepared):
    """PQ, SQ and RQ of the files that a submission would have."""
    evaluation = pytest.importorskip("panopticapi.evaluation")
    results = json.loads((trained[1] / "results.json").read_text())
    scores = next(iter(results["results"].values()))["panoptic_seg"]
    (written,) = (trained[1] / "inference").rglob("*_panoptic_predictions.json")
    theirs = evaluation.pq_compute(
        gt_json_file=str(prepared / "annotations/panoptic_val2017.json"),
        gt_folder=str(prepared / "panoptic_val2017"),
        pred_json_file=str(written),
        pred_folder=str(written.with_suffix("")),
    )
    for kind, suffix in (("All", ""), ("Things", "_th"), ("Stuff", "_st")):
        for name in ("pq", "sq", "rq"):
            assert math.isclose(
                scores[f"{name.upper()}{suffix}"], 100 * theirs[kind][name], abs_tol=1e-9
            )


def test_looking_at_predictions(run, trained, tmp_path):
    config, output = trained
    words = ["--config-file", config, "--weights", output / "model_final.pth"]
    run("visualize", *words, "--dataset", "coco_2017_val_panoptic_separated", "--limit", "2",
        "--output", tmp_path / "pictures", *SIZES, "MODEL.RESNETS.NORM", "BN")  # fmt: skip
    assert len([*(tmp_path / "pictures/images").glob("*.png")]) >= 2
    for picture in (tmp_path / "pictures/images").glob("*.png"):
        assert np.asarray(Image.open(picture)).std() > 1
