"""Signals, killed processes, and a last checkpoint that cannot be written."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoint_runs import Killing, assert_same_state, disturb, lines, train
from detectron2.utils.env import seed_all_rng
from toy_configs import change

from freqfusion.engine.checkpoint import Interrupted, LastSaveFailedError, SaveError

ROOT = Path(__file__).parents[3]
CONFIG = "configs/synthetic/semantic-segmentation/sfm_semantic_fpn_r18.yaml"
QUICK = {"SOLVER__MAX_ITER": 4, "TEST__EVAL_PERIOD": 2, "SOLVER__CHECKPOINT_PERIOD": 100}


class Asked(Killing):
    """Gets a signal in its second iteration."""

    number = signal.SIGTERM

    def run_step(self):
        super().run_step()
        if self.iter == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_ends_and_a_resumed_run_is_exact(semantic_cfg, tmp_path, number):
    before = signal.getsignal(number)
    cfg = change(semantic_cfg, QUICK)
    seed_all_rng(cfg.SEED)
    asked = Asked(cfg)
    asked.number = number
    with pytest.raises(Interrupted, match=rf"{number.name} after 2 of 4 .* with --resume goes on"):
        asked.train()
    assert signal.getsignal(number) == before
    run = tmp_path / "run"
    assert (run / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not (run / "results.json").exists()
    if number != signal.SIGTERM:
        return
    disturb()
    resumed = train(cfg, resume=True)
    assert resumed.start_iter == 2
    whole = change(cfg.clone(), {"OUTPUT_DIR": str(tmp_path / "whole")})
    assert_same_state(resumed, train(whole))


def failing(monkeypatch, fails):
    from freqfusion.engine.checkpoint import RunCheckpointer

    save = RunCheckpointer.save

    def limited(self, name, **extra):
        if fails(name):
            raise SaveError(f"{name} could not be written: no space (0 MiB are free there)")
        save(self, name, **extra)

    monkeypatch.setattr(RunCheckpointer, "save", limited)


def test_full_disk_is_told_and_training_goes_on(semantic_cfg, tmp_path, monkeypatch, caplog):
    keys = {"SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__MAX_ITER": 3, "DATASETS__TEST": ()}
    failing(monkeypatch, lambda name: name == "model_0000001")
    train(change(semantic_cfg, keys))
    assert "model_0000001 could not be written: no space" in caplog.text
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"


def test_last_checkpoint_that_cannot_be_written_ends_the_run(semantic_cfg, tmp_path, monkeypatch):
    keys = {"SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__MAX_ITER": 2}
    failing(monkeypatch, lambda name: name == "model_final")
    with pytest.raises(LastSaveFailedError, match="model_final could not be written"):
        train(change(semantic_cfg, keys))
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000000.pth"
    assert not (tmp_path / "run" / "results.json").exists()


def test_keep_last(semantic_cfg, tmp_path):
    keys = {"SOLVER__MAX_ITER": 4, "DATASETS__TEST": (), "SOLVER__CHECKPOINT_PERIOD": 1}
    keys |= {"SOLVER__CHECKPOINT__KEEP_LAST": 2}
    train(change(semantic_cfg, keys))
    names = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert names == ["model_0000001.pth", "model_0000002.pth", "model_final.pth"]


def test_resume_without_a_checkpoint_begins(semantic_cfg, caplog):
    change(semantic_cfg, {"SOLVER__MAX_ITER": 1, "DATASETS__TEST": ()})
    assert train(semantic_cfg, resume=True).start_iter == 0
    assert "There is no checkpoint in" in caplog.text


TORCHRUN = "-m torch.distributed.run --rdzv-backend c10d --rdzv-endpoint localhost:0"
TORCHRUN += " --signals-to-handle SIGTERM,SIGINT,SIGUSR1"
STARTERS = {
    "alone": ("train_net.py",),
    "two processes": ("train_net.py", "--num-processes", "2"),
    "torchrun": (*TORCHRUN.split(), "--nproc-per-node", "2", "train_net.py"),
}


def start(folder, starter, *words):
    """A run in a session of its own."""
    keys = ("OUTPUT_DIR", folder, "SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 1)
    keys += ("SOLVER.IMS_PER_BATCH", 2, "INPUT.MIN_SIZE_TRAIN", "(48,)", "SEED", 5)
    keys += ("SOLVER.CHECKPOINT.KEEP_LAST", 2, "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", 1)
    words = ["--config-file", CONFIG, *words, *map(str, keys), "MODEL.DEVICE", "cpu"]
    path = os.pathsep.join([str(ROOT / "projects"), os.environ.get("PYTHONPATH", "")])
    variables = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *STARTERS[starter], *words], cwd=ROOT, env=variables, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def saved(folder):
    """What changes with each checkpoint."""
    path = folder / "last_checkpoint"
    return path.read_text() if path.is_file() else ""


def wait_for_save(run, folder):
    """Until a checkpoint is written, or the run has ended."""
    before = saved(folder)
    while saved(folder) == before and run.poll() is None:
        time.sleep(0.01)


def kill_all(run):
    """SIGKILL to a process and all that it has started, wherever they are."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    doomed = [run.pid]
    for parent in doomed:
        doomed += [child for child, of in parents.items() if of == parent]
    for process in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    run.communicate()


def final(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize(("starter", "wanted"), [("alone", 8), ("two processes", 4)])
def test_killed_at_random_moments(tmp_path, datasets, starter, wanted):
    """All processes at once; a checkpoint in each iteration, so that many a kill meets one."""
    whole = start(tmp_path / "whole", starter)
    assert whole.wait() == 0, whole.communicate()[1]
    draw, kills, folder = random.Random(3), 0, tmp_path / "run"
    while kills < wanted:
        run = start(folder, starter, "--resume")
        for _ in range(draw.randrange(1, 4)):
            wait_for_save(run, folder)
        time.sleep(draw.uniform(0, 0.5))
        if run.poll() is None:
            kill_all(run)
            kills += 1
        elif kills < wanted:  # it came to its end before: begin again
            assert run.wait() == 0, run.communicate()[1]
            shutil.rmtree(folder)
    last = start(folder, starter, "--resume")
    assert last.wait() == 0, last.communicate()[1]
    one, other = final(folder), final(tmp_path / "whole")
    assert [name for name in other if not torch.equal(one[name], other[name])] == []
    iterations = [line["iteration"] for line in lines(folder)]
    assert iterations == sorted(set(iterations))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("starter", STARTERS)
def test_signal_to_all_processes_of_a_run(tmp_path, datasets, starter, name):
    """Loading workers too, as a machine does that goes; torchrun hands it on itself."""
    run = start(tmp_path / "run", starter)
    wait_for_save(run, tmp_path / "run")
    os.killpg(run.pid, signal.Signals[name])
    said = run.communicate()[1]
    assert said.count(f"ended by {name} after") == 1, said
    if starter != "torchrun":
        assert run.returncode == (130 if name == "SIGINT" else 0)
        assert "Traceback" not in said
    last = saved(tmp_path / "run")
    state = torch.load(tmp_path / "run" / last, weights_only=True)
    assert f"{name} after {state['iteration'] + 1} of 12" in said
    again = start(tmp_path / "run", starter)
    assert "is not empty" in again.communicate()[1]
    assert again.returncode == (1 if starter == "torchrun" else 2)
    assert saved(tmp_path / "run") == last
    shutil.rmtree(tmp_path)
