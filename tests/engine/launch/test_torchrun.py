"""The synthetic panoptic configuration under torchrun, on CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from same_numbers import check_same
from torchrun_program import train_evaluate_and_go_on
from toy_configs import change
from worker_runs import ONE_IMAGE, register

from freqfusion.engine import load_config
from freqfusion.engine.launch import start_processes

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / "configs/synthetic/panoptic-segmentation/freqfusion_panoptic_fpn_r18.yaml"
# Small; nothing random, no statistics over a batch, and every anchor and proposal is used, of one
# image, since losses are means over objects.
KEYS = {
    "MODEL__DEVICE": "cpu",
    "MODEL__RESNETS__NORM": "GN",
    "MODEL__FPN__OUT_CHANNELS": 32,
    "MODEL__FREQFUSION__COMPRESSED_CHANNELS": 8,
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 32,
    "MODEL__ROI_BOX_HEAD__FC_DIM": 32,
    "MODEL__ROI_MASK_HEAD__CONV_DIM": 32,
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 2000,
    "MODEL__RPN__POSITIVE_FRACTION": 1.0,
    "MODEL__RPN__POST_NMS_TOPK_TRAIN": 30,
    "MODEL__RPN__POST_NMS_TOPK_TEST": 20,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 100,
    "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0,
    "DATASETS__TRAIN": (ONE_IMAGE,),
    "DATALOADER__NUM_WORKERS": 0,
    "INPUT__MIN_SIZE_TRAIN": (64,),
    "INPUT__MAX_SIZE_TRAIN": 80,
    "INPUT__MIN_SIZE_TEST": 64,
    "INPUT__MAX_SIZE_TEST": 80,
    "INPUT__RANDOM_FLIP": "none",
    "SOLVER__OPTIMIZER": "SGD",
    "SOLVER__CLIP_GRADIENTS__ENABLED": False,
    "SOLVER__BASE_LR": 0.01,
    "SOLVER__WARMUP_ITERS": 0,
    "SOLVER__IMS_PER_BATCH": 4,
    "SOLVER__MAX_ITER": 2,
    "SEED": 1,
    "TEST__EVAL_PERIOD": 0,
    "TEST__SAMPLE_PREDICTIONS": 0,
}


def configuration(folder):
    cfg = change(load_config(str(CONFIG)), KEYS)
    cfg.OUTPUT_DIR = str(folder)
    return cfg


@pytest.fixture(scope="module")
def one(tmp_path_factory, datasets):
    """What one process gives."""
    folder = tmp_path_factory.mktemp("one")
    register()
    path = str(folder / "record.pt")
    start_processes(
        train_evaluate_and_go_on, (configuration(folder / "run"), path), count=1, device="cpu"
    )
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("count", [2, 4])
def test_trains_evaluates_and_goes_on_as_one_process(count, one, tmp_path):
    """The same total batch: loss, gradients and weights of a step within 1e-4, and the scores."""
    path = tmp_path / "record.pt"
    torch.save((configuration(tmp_path / "run"), str(path)), tmp_path / "given.pt")
    folders = [str(ROOT / name) for name in ("projects", "tests")]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count),
         "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
         str(ROOT / "tests/torchrun_program.py"), str(tmp_path / "given.pt")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"},
        check=True,
    )  # fmt: skip
    several = torch.load(path, weights_only=False)
    assert several["world_size"] == count
    check_same(one, several)
    [images] = one["images"]
    assert [name for share in several["images"] for name in share] == images
    for task, scores in one["evaluated"].items():
        assert several["evaluated"][task] == pytest.approx(scores, abs=1e-6, nan_ok=True)
    assert several["resumed"]["start"] == 2
    assert several["resumed"]["loss"] == pytest.approx(one["resumed"]["loss"], rel=1e-4)
