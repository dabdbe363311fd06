"""Several CPU processes train what one process trains."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from same_numbers import check_same, check_same_steps
from torch.multiprocessing import ProcessRaisedException
from toy_configs import change
from worker_runs import LABELLED, ONE_IMAGE, enter, fail, leave_what_aborts, record_runs, register

from freqfusion.data.synthetic.parallel import default_workers
from freqfusion.engine.launch import Place, start_processes
from freqfusion.engine.launch.processes import _share_cores
from freqfusion.engine.output_folder import locked_folder

ROOT = Path(__file__).parents[3]
CONFIG = "configs/synthetic/semantic-segmentation/sfm_semantic_fpn_r18.yaml"
# Nothing random, and no statistics over a batch. Images of one size without ignored pixels, so that
# means over the labelled pixels of a batch are means over its images.
EXACT = {
    "MODEL__RESNETS__NORM": "GN",
    "INPUT__MIN_SIZE_TRAIN": (64,),
    "INPUT__RANDOM_FLIP": "none",
    "SOLVER__BASE_LR": 0.01,
    "SOLVER__WARMUP_ITERS": 0,
}
# Every anchor and every proposal is used; of one image, since losses are means over objects.
PANOPTIC = EXACT | {
    "MODEL__META_ARCHITECTURE": "PanopticFPN",
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 7,
    "DATASETS__TRAIN": (ONE_IMAGE,),
    "DATASETS__TEST": ("synthetic_panoptic_val_separated",),
    "MODEL__RPN__BATCH_SIZE_PER_IMAGE": 2000,
    "MODEL__RPN__POSITIVE_FRACTION": 1.0,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 100,
    "MODEL__ROI_HEADS__POSITIVE_FRACTION": 1.0,
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
    EXACT | QUICK | {"MODEL__RESNETS__NORM": "naiveSyncBN", "DATASETS__TRAIN": (LABELLED,)}
)
BFLOAT16 = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bfloat16", "SOLVER__MAX_ITER": 1}


@pytest.fixture
def cases(semantic_cfg):
    """Configurations by name."""
    semantic = semantic_cfg
    return {
        "panoptic": change(semantic.clone(), PANOPTIC),
        "sfm": change(semantic.clone(), SFM),
        "synchronised": change(semantic.clone(), SYNCHRONISED),
        "bfloat16": change(semantic.clone(), SFM | BFLOAT16 | QUICK),
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
    assert start_processes(record_runs, runs, count=count, device="cpu") == 0
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in cases}


def test_two_processes_train_and_evaluate_as_one(cases, tmp_path, datasets):
    """The same losses, gradients, weights and scores; each of three images is evaluated once."""
    register()
    two = recorded(cases, tmp_path / "two", 2)
    alike = {name: cases[name] for name in ("panoptic", "sfm", "synchronised")}
    parts = change(cases["sfm"].clone(), QUICK | {"SOLVER__ACCUMULATE_STEPS": 2})
    one = recorded(alike | {"parts": parts}, tmp_path / "one", 1)
    for name in ("panoptic", "sfm"):
        check_same(one[name], two[name])
        [images] = one[name]["images"]
        assert two[name]["images"] == [images[:2], images[2:]]
    # Its running variances are those of a batch without Bessel's correction, and it counts none.
    check_same_steps(one["synchronised"], two["synchronised"], what=["gradients"])
    check_same_steps(one["sfm"], one["parts"])
    assert math.isfinite(two["bfloat16"]["losses"][0])
    names = two["unsupervised"]["gradients"]
    assert names
    assert not any(".sfm." in name for name in names)


@pytest.mark.slow
def test_four_processes_train_and_evaluate_as_one(cases, tmp_path, datasets):
    register()
    alike = {
        name: change(cases[name], {"SOLVER__IMS_PER_BATCH": 4}) for name in ("panoptic", "sfm")
    }
    four = recorded(alike, tmp_path / "four", 4)
    one = recorded(alike, tmp_path / "one", 1)
    for name in alike:
        check_same(one[name], four[name])
        assert [len(images) for images in four[name]["images"]] == [1, 1, 1, 0]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["all of them", "one of them"])
def test_sentence_comes_once_and_ends_all(how, capfd):
    assert start_processes(fail, how, count=2, device="cpu") == 2
    assert capfd.readouterr().err.count(f"{how} cannot work so") == 1


def test_processes_end_without_finalizing_python(tmp_path):
    """Meanwhile a thread of gloo that releases its last tensor aborts the process."""
    assert start_processes(leave_what_aborts, tmp_path, count=2, device="cpu") == 0
    assert {file.name for file in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.slow
def test_all_processes_of_a_run_stay_out_of_the_folder_of_another(tmp_path, capfd):
    with locked_folder(str(tmp_path)):
        assert start_processes(enter, str(tmp_path), count=2, device="cpu") == 2
    assert capfd.readouterr().err.count(f"is in use by process {os.getpid()} on") == 1
    assert start_processes(enter, str(tmp_path), count=2, device="cpu") == 0


@pytest.mark.slow
def test_defect_keeps_its_trace():
    with pytest.raises(ProcessRaisedException, match="TypeError: a defect"):
        start_processes(fail, "a defect", count=2, device="cpu")


@pytest.mark.parametrize(
    ("variables", "place", "threads"),
    [
        ({}, Place(0, 2, 0, 2, ""), max(1, default_workers() // 2)),
        ({}, Place(0, 900, 0, 900, ""), 1),
        ({"OMP_NUM_THREADS": "3"}, Place(0, 2, 0, 2, ""), None),
        ({}, Place(0, 1, 0, 1, ""), None),
        ({"SLURM_CPUS_PER_TASK": "7"}, Place(0, 2, 0, 2, "", "SLURM"), 7),
        ({"SLURM_CPUS_PER_TASK": "7"}, Place(0, 900, 0, 900, "", "torchrun"), 1),
    ],
)
def test_cores_are_shared(variables, place, threads, monkeypatch):
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    _share_cores(place)
    assert seen == ([] if threads is None else [threads])


def test_one_process_is_this_one():
    seen = []

    def work(given, may_speak):
        seen.append((given, may_speak(), os.getpid()))

    assert start_processes(work, "x", count=1, device="cpu") == 0
    assert seen == [("x", True, os.getpid())]


def command(folder, *words):
    keys = ("OUTPUT_DIR", folder, "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2)
    keys += ("INPUT.MIN_SIZE_TRAIN", "(64,)", "DATALOADER.NUM_WORKERS", 0, *words)
    return ["train_net.py", "--config-file", CONFIG, *map(str, keys)]


def environment(**variables):
    path = os.pathsep.join([str(ROOT / "projects"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | variables


def start(words, **variables):
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment(**variables),
        text=True,
        stdout=pipe,
        stderr=pipe,
    )


@pytest.mark.e2e
@pytest.mark.parametrize("words", [(), ("SEDE", "1")])
def test_torchrun(words, tmp_path, datasets):
    """torchrun itself ends with 1 and a trace whenever a process fails; the sentence stays one."""
    own = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    own += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    run = start([*own, *command(tmp_path, *words)])
    said = run.communicate()[1]
    assert said.count("there is no key SEDE; did you mean SEED?") == len(words) / 2
    assert run.returncode == bool(words), said
    if not words:
        assert json.loads((tmp_path / "results.json").read_text())["iteration"] == 2


@pytest.mark.e2e
@pytest.mark.parametrize("words", [(), ("SEDE", "1"), ("SOLVER.OPTIMIZER", "LION")])
def test_slurm(words, tmp_path, datasets):
    """Two processes with the variables of srun; one error is found early, the other one late."""
    tasks = [
        start(
            command(tmp_path, *words),
            SLURM_JOB_ID=str(os.getpid()),
            SLURM_STEP_ID="0",
            SLURM_PROCID=number,
            SLURM_NTASKS="2",
            SLURM_LOCALID=number,
            SLURM_STEP_TASKS_PER_NODE="2",
            SLURM_STEP_NODELIST="localhost",
        )
        for number in ("0", "1")
    ]
    said = [task.communicate()[1] for task in tasks]
    assert [task.returncode for task in tasks] == [2 if words else 0] * 2, said
    assert "".join(said).count("train_net.py: ") == bool(words)
    assert (tmp_path / "results.json").is_file() == (not words)
