"""One run: its scenes, its process, its model, and the row that it leaves."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ablations import MATRIX, ROOT, write_matrix
from rehearsed import registered_at

pytest.importorskip("detectron2")

from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from benchmarks import ablation_training as training
from benchmarks.ablation_matrix import plan, read_matrix
from freqfusion.data.synthetic import write_coco
from freqfusion.engine import Trainer
from freqfusion.engine.setup import load_config


@pytest.fixture
def matrix(tmp_path):
    return read_matrix(write_matrix(tmp_path))


def test_scenes_that_cannot_be_written_are_told(tmp_path, matrix, monkeypatch):
    run = plan(matrix, tmp_path)[0]
    done = SimpleNamespace(returncode=2, stderr="a warning\nsynthesize: no room\n")
    monkeypatch.setattr(training.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(RuntimeError, match="of fpn bilinear-s0 cannot be written: synthesize: no"):
        training.prepare_data(run, tmp_path / "data")
    assert not (tmp_path / "data" / training.data_key(run.data)).exists()


SCRIPT = """
import json, os, pathlib, sys
folder = pathlib.Path(sys.argv[-1])
folder.mkdir()  # a training is refused where there is anything
pathlib.Path(folder, "model_final.pth").write_text("weights")
print("threads", os.environ["OMP_NUM_THREADS"], os.environ["DETECTRON2_DATASETS"], *sys.argv)
if "1" == sys.argv[sys.argv.index("SEED") + 1]:
    sys.exit("train_net: no such luck")
lines = [{"iteration": n, "time": t} for n, t in enumerate((0.5, 0.2, 0.3))]
(folder / "metrics.json").write_text("".join(json.dumps(line) + chr(10) for line in lines))
scores = {"sem_seg": {"mIoU": 12.5, "IoU-sky": None}}
(folder / "results.json").write_text(json.dumps({"datasets": {"synthetic": scores}}))
"""


def test_training_is_a_process_whose_results_become_a_row(tmp_path, matrix):
    """The median of the steps; a checkpoint is deleted; a failure says the log's last line."""
    (tmp_path / "train_net.py").write_text(SCRIPT)
    runs = plan(matrix, tmp_path / "rows", ["fpn"], ["bilinear"])
    data = {training.data_key(runs[0].data): tmp_path / "scenes"}
    train = training.RunTrainer(root=tmp_path, output=tmp_path / "o", data=data, keep_weights=False)
    made = train(runs[0])
    assert made["scores"] == {"sem_seg/mIoU": 12.5, "sem_seg/IoU-sky": None}
    assert made["step_seconds"] == 0.3
    assert made["seed"] == 0
    assert made["parameters"] > 1_000_000
    assert made["learning_rate"] == {"factor": 1.0, "chosen_on_tune": False}
    assert set(made["versions"]) == {"python", "freqfusion", "torch", "numpy", "detectron2"}
    assert len(made["revision"].rstrip("+")) == 40
    folder = train.folder(runs[0])
    assert f"threads 1 {tmp_path / 'scenes'}" in train.log(runs[0]).read_text()
    assert not (folder / "model_final.pth").exists()
    with pytest.raises(
        RuntimeError, match=r"^train_net: no such luck \(exit code 1, .*bilinear-s1.log\)"
    ):
        train(runs[1])
    train.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        train(runs[0])


@pytest.mark.e2e
def test_a_real_training_becomes_a_row_though_its_folder_is_there(tmp_path):
    text = MATRIX.replace("MAX_ITER: 2", "MAX_ITER: 2, DATALOADER.NUM_WORKERS: 0")
    run = plan(read_matrix(write_matrix(tmp_path, text)), tmp_path, ["fpn"], ["bilinear"], [0])[0]
    data = {training.data_key(run.data): training.prepare_data(run, tmp_path / "data")}
    train = training.RunTrainer(output=tmp_path / "o", data=data, keep_weights=False)
    train.folder(run).mkdir(parents=True)
    (train.folder(run) / "metrics.json").write_text("interrupted")
    row = train(run)
    assert row["scores"]["sem_seg/mIoU"] >= 0
    assert row["seconds"] > row["step_seconds"] > 0


def test_every_model_of_the_project_can_be_built_and_counted(tmp_path):
    """A Panoptic FPN asks its data set for the things, which are registered then."""
    found = read_matrix(ROOT / "benchmarks/ablation.yaml")
    runs = plan(found, tmp_path, ["segnext", "panoptic_fpn", "sfm_fcn_long"], (), [0])
    counts = {(run.experiment, run.method): training.model_facts(run) for run in runs}
    assert all(facts["parameters"] > 1_000_000 for facts in counts.values())
    sfm = {method: facts["parameters"] for (one, method), facts in counts.items() if "sfm" in one}
    assert sfm["fcn"] < sfm["fcn_cascade"] < sfm["sfm_fcn"]
    assert sfm["sfm_fcn"] == sfm["sfm_fcn_without_demodulation"]
    # Its attention stays: without supervision it learns from the task alone.
    assert sfm["sfm_fcn_without_supervision"] == sfm["sfm_fcn"]
    cascade = sfm["fcn_cascade"] - sfm["fcn"]
    assert sfm["sfm_fcn"] - sfm["sfm_fcn_without_cascade"] == cascade
    fpn = {method: facts["parameters"] for (_, method), facts in counts.items() if "low" in method}
    assert fpn["without_low_pass"] < counts["panoptic_fpn", "freqfusion"]["parameters"]


def test_stopping_ends_the_process_of_a_run(tmp_path, matrix):
    """With those that it has started, such as workers that load data."""
    (tmp_path / "train_net.py").write_text(SLEEPER)
    run = plan(matrix, tmp_path / "rows", ["fpn"], ["bilinear"])[0]
    data = {training.data_key(run.data): tmp_path}
    train = training.RunTrainer(root=tmp_path, output=tmp_path / "o", data=data, keep_weights=False)
    told = []

    def work():
        try:
            train(run)
        except RuntimeError as error:
            told.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    log = train.log(run)
    begun = time.monotonic()
    while time.monotonic() - begun < 60 and not (log.is_file() and log.read_text()):
        time.sleep(0.05)
    child = int(log.read_text())
    train.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert told[0].endswith(f"(exit code -15, {log})")
    while time.monotonic() - begun < 90 and is_running(child):
        time.sleep(0.05)
    assert not is_running(child)


SLEEPER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(child.pid, flush=True)
time.sleep(300)
"""


def is_running(pid):
    """Whether there is such a process which is no zombie (its new parent may not have read it)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_coco(root / "synthetic", num_train=9, num_val=1, size=(64, 80), progress=False, workers=1)
    with pytest.MonkeyPatch.context() as patch, registered_at(root, patch):
        yield root


def images_of(run, folder, steps=2):
    """File names and pixels of the batches that the first steps of a training take."""
    size = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu"]
    cfg = load_config(str(run.config), [*run.options(), *size, "OUTPUT_DIR", str(folder)])
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda _, inputs: seen.extend((one["file_name"], one["image"]) for one in inputs[0])
    )
    with EventStorage() as trainer.storage:
        for _ in range(steps):
            trainer.run_step()
            trainer.storage.step()
    return seen


def test_methods_of_a_seed_see_the_same_images(datasets, tmp_path):
    """Though they draw different numbers of random weights."""
    matrix = read_matrix(ROOT / "benchmarks/ablation.yaml")
    runs = plan(matrix, tmp_path, ["semantic_fpn"], ["nearest", "sfm_pyramid_freqfusion"], [0, 1])
    seen = {(run.method, run.seed): images_of(run, tmp_path / "out") for run in runs[:3]}
    ours, reference = (seen[name, 0] for name in ("sfm_pyramid_freqfusion", "nearest"))
    assert [name for name, _ in ours] == [name for name, _ in reference]
    assert len({name for name, _ in ours}) == 4
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, reference, strict=True))
    names = [[name for name, _ in seen["nearest", seed]] for seed in (0, 1)]
    assert names[0] != names[1]
