"""Several processes: how many a command line means, and that they train what one trains."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from same_numbers import check_same, check_same_steps
from torch.multiprocessing import ProcessRaisedException
from toy_configs import change
from worker_runs import LABELLED, fail, record_runs, register, skip_then_record_runs

from freqfusion.engine.command_line import argument_parser
from freqfusion.engine.launch import start_processes
from freqfusion.engine.setup import count_processes

ROOT = Path(__file__).parents[2]
CONFIG = "configs/synthetic/semantic-segmentation/sfm_semantic_fpn_r18.yaml"
# Nothing random, and no statistics over a batch. Images of one size without ignored pixels, so that
# means over the labelled pixels of a batch are means over its images.
EXACT = {
    "MODEL__RESNETS__NORM": "LN",
    "INPUT__MIN_SIZE_TRAIN": (64,),
    "INPUT__RANDOM_FLIP": "none",
    "SOLVER__BASE_LR": 0.01,
    "SOLVER__WARMUP_ITERS": 0,
}
SFM = EXACT | {
    "MODEL__META_ARCHITECTURE": "SFMSegmentor",
    "MODEL__BACKBONE__NAME": "build_sfm_freqfusion_fpn_backbone",
    "MODEL__SFM__ENABLED": True,
    "MODEL__SFM__PSP_RATIO": 4,
    "DATASETS__TRAIN": (LABELLED,),
}
QUICK = {"DATASETS__TEST": ()}
# The statistics of a batch over both processes: those of one process that has all of it.
SYNCHRONISED = (
    EXACT
    | QUICK
    | {
        "MODEL__RESNETS__DEPTH": 18,
        "MODEL__RESNETS__RES2_OUT_CHANNELS": 64,
        "MODEL__RESNETS__NORM": "naiveSyncBN",
        "DATASETS__TRAIN": (LABELLED,),
    }
)


@pytest.fixture
def cases(semantic_cfg):
    """Configurations by name."""
    semantic = semantic_cfg
    return {
        "sfm": change(semantic.clone(), SFM),
        "synchronised": change(semantic.clone(), SYNCHRONISED),
        # Where the attention learns from nothing, processes must not wait for its gradients.
        "unsupervised": change(
            semantic.clone(),
            SFM | QUICK | {"MODEL__SFM__EDGE_LOSS_WEIGHT": 0.0, "MODEL__SFM__DETACH_GRID": True},
        ),
    }


def recorded(cases, folder, count):
    folder.mkdir()
    runs = []
    for name, cfg in cases.items():
        cfg = cfg.clone()
        cfg.OUTPUT_DIR = str(folder / name)
        runs.append((cfg, str(folder / f"{name}.pt")))
    work = record_runs if count == 1 else skip_then_record_runs
    assert start_processes(work, runs, count=count, device="cpu") == 0
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in cases}


def test_two_processes_train_and_evaluate_as_one(cases, tmp_path, capfd):
    """The same losses, gradients, weights and scores; each of three images is evaluated once.

    Processes end without finalizing Python, where a thread of gloo that releases its last tensor
    aborts the process, but run its exit handlers.

    Before that they skip a step together: weight 1, less 0.1 times the mean of all four images,
    (1 + 2 + 2 + 2) / 4, then 3.5.
    """
    register()
    two = recorded(cases, tmp_path / "two", 2)
    alike = {name: cases[name] for name in ("sfm", "synchronised")}
    parts = change(cases["sfm"].clone(), QUICK | {"SOLVER__ACCUMULATE_STEPS": 2})
    one = recorded(alike | {"parts": parts}, tmp_path / "one", 1)
    check_same(one["sfm"], two["sfm"])
    [images] = one["sfm"]["images"]
    assert two["sfm"]["images"] == [images[:2], images[2:]]
    # Its running variances are those of a batch without Bessel's correction, and it counts none.
    check_same_steps(one["synchronised"], two["synchronised"], what=["gradients"])
    check_same_steps(one["sfm"], one["parts"])
    names = two["unsupervised"]["gradients"]
    assert names
    assert {file.name for file in (tmp_path / "two").glob("rank*")} == {"rank0", "rank1"}
    assert not any(".sfm." in name for name in names)
    for rank in (0, 1):
        record = json.loads((tmp_path / f"two/{rank}.json").read_text())
        assert record["weights"] == pytest.approx([0.825, 0.825, 0.475])
        assert (record["skipped"], record["in_a_row"]) == (1, 0)
    told = "rank 1: numbers are not finite: the loss loss is nan; images: rank1_0"
    assert f"iteration 1, {told}" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", ["all of them", "one of them"])
def test_sentence_comes_once_and_ends_all(how, capfd):
    assert start_processes(fail, how, count=2, device="cpu") == 2
    assert capfd.readouterr().err.count(f"{how} cannot work so") == 1


@pytest.mark.slow
def test_defect_keeps_its_trace():
    with pytest.raises(ProcessRaisedException, match="TypeError: a defect"):
        start_processes(fail, "a defect", count=2, device="cpu")


def test_one_process_is_this_one():
    seen = []
    assert start_processes(seen.append, "x", count=1, device="cpu") == 0
    assert seen == ["x"]


@pytest.mark.e2e
@pytest.mark.parametrize("words", [(), ("SEDE", "1"), ("SOLVER.OPTIMIZER", "LION")])
def test_torchrun_reports_once(words, tmp_path, datasets):
    """One error is found early, one late. torchrun itself ends with 1 and a trace of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "train_net.py"]
    keys = ("OUTPUT_DIR", tmp_path / "run", "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2)
    keys += ("INPUT.MIN_SIZE_TRAIN", "(64,)", "DATALOADER.NUM_WORKERS", 0, *words)
    path = os.pathsep.join([str(ROOT / "projects"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [*command, "--config-file", CONFIG, *map(str, keys)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ended.stderr.count("train_net.py: ") == bool(words), ended.stderr
    assert ended.returncode == bool(words)
    if not words:
        assert json.loads((tmp_path / "run/results.json").read_text())["iteration"] == 2


def options(*words):
    return argument_parser().parse_args(words)


@pytest.mark.parametrize(
    ("words", "device", "count"),
    [
        ((), "cpu", 1),
        (("--num-gpus", "0"), "cpu", 1),
        (("--num-processes", "3"), "cpu", 3),
        (("--num-gpus", "0"), "cuda", 1),
        (("--num-gpus", "4"), "cuda", 4),
        (("--num-gpus", "2", "--num-machines", "2", "--dist-url", "tcp://a:1"), "cuda", 2),
    ],
)
def test_count(words, device, count, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert count_processes(options(*words), device) == count


@pytest.mark.parametrize(
    ("words", "device", "started", "sentence"),
    [
        (("--num-gpus", "2"), "cpu", None, "take --num-processes 2 for processes on the CPU"),
        (("--num-processes", "0"), "cpu", None, "--num-processes must be at least 1; got 0"),
        (("--num-processes", "2"), "cuda", None, "for GPUs write --num-gpus"),
        (("--num-gpus", "5"), "cuda:0", None, "is more than this machine has, which is 4"),
        (("--num-machines", "2"), "cpu", None, "needs --dist-url tcp://<machine 0>:<port>"),
        (("--num-processes", "2"), "cpu", 2, "but torchrun has started 2 of them: leave out one"),
        ((), "cuda", 8, "torchrun started 8 processes on a machine with 4 GPUs: start one for"),
    ],
)
def test_what_does_not_fit_is_a_sentence(words, device, started, sentence, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        count_processes(options(*words), device, started)
