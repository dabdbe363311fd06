"""The command: what a user can mend is a sentence and exit code 2, anything else a trace."""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from freqfusion.engine import Trainer, command_line, launch
from freqfusion.engine.checkpoint import saving
from freqfusion.engine.command_line import argument_parser, explain_errors, run

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "train_net.py"
CONFIG = "configs/synthetic/panoptic-segmentation/panoptic_fpn_r18.yaml"


@pytest.fixture(scope="module")
def main():
    """``train_net.py``'s, in this process."""
    spec = importlib.util.spec_from_file_location("train_net", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def call(main, capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["--config-file", str(ROOT / CONFIG), *arguments])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_wrong_key_is_a_sentence(main, capsys):
    answer = call(main, capsys, "MODEL.FREQFUSION.FUSE_TYP", "carafe")
    assert answer == (
        "train_net.py: command line: there is no key MODEL.FREQFUSION.FUSE_TYP; did you mean"
        " MODEL.FREQFUSION.FUSE_TYPE?\n"
    )


def test_preflight_comes_before_the_output_folder_is_made(main, capsys, tmp_path, datasets):
    folder = tmp_path / "run"
    keys = ("OUTPUT_DIR", str(folder), "MODEL.MASK_ON", "False", "MODEL.WEIGHTS", "x.pth")
    answer = call(main, capsys, *keys)
    assert answer.startswith("train_net.py: the configuration has 2 problems:\n1. PanopticFPN")
    assert "\n2. MODEL.WEIGHTS names x.pth" in answer
    assert not folder.exists()


def test_random_weights_are_not_evaluated(main, capsys, tmp_path, datasets, monkeypatch):
    """No weights, those of other models, and those of a part of this one."""
    keys = ("OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS")
    answer = call(main, capsys, "--eval-only", *keys, "")
    assert "there are no weights to evaluate: give MODEL.WEIGHTS FILE, or --resume" in answer
    assert not (tmp_path / "run").exists()
    answer = call(main, capsys, "--eval-only", "--resume", *keys, "")
    assert f"{tmp_path / 'run'} has no checkpoint" in answer
    other, part = str(tmp_path / "other.pth"), str(tmp_path / "part.pth")
    torch.save({"x.weight": torch.ones(3)}, other)
    bias = "sem_seg_head.predictor.bias"
    torch.save({bias: torch.ones(7)}, part)
    answer = call(main, capsys, "--eval-only", *keys, other)
    assert f"train_net.py: no parameter of the model is in {other}: give" in answer
    answer = call(main, capsys, "--eval-only", *keys, part)
    assert f"1 of 119 parameters of the model are in {part}, and 0 of 60 of its" in answer

    monkeypatch.setattr(Trainer, "test", classmethod(lambda cls, cfg, model: {}))
    allowed = ["--eval-only", "--allow-random-weights", "--config-file", str(ROOT / CONFIG)]
    for weights in (part, ""):
        assert main([*allowed, *keys, weights]) == 0


class Pressing(Trainer):
    """Gets SIGINT in its first iteration, as often as it is told."""

    times = 1

    def run_step(self):
        for _ in range(self.times):
            os.kill(os.getpid(), signal.SIGINT)
        super().run_step()


@pytest.mark.parametrize("times", [1, 2])
def test_interrupt_is_a_sentence_and_code_130(times, main, datasets, tmp_path, monkeypatch, capfd):
    """Once saves; a second time, when the terminal's own is over, ends on the spot."""
    monkeypatch.setattr(command_line, "Trainer", Pressing)
    monkeypatch.setattr(Pressing, "times", times)
    if times == 2:
        monkeypatch.setattr(saving, "_ONE_KEYSTROKE", 0.0)
    keys = ("OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu")
    keys += ("SOLVER.IMS_PER_BATCH", "1", "DATASETS.TEST", "()", "SOLVER.STEPS", "()")
    with pytest.raises(SystemExit) as caught:
        main(["--config-file", str(ROOT / CONFIG), *keys])
    assert caught.value.code == 130
    said = capfd.readouterr().err
    assert said.count("Ctrl-C once more ends at once") == 1
    ends = "ended by SIGINT after 1 of" if times == 1 else "interrupted; the same command with --re"
    assert said.count(f"train_net.py: {ends}") == 1
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000000.pth"] * (times == 1)


def test_interrupt_before_training_is_a_sentence_too(main, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "check", interrupted)
    assert main(["--config-file", str(ROOT / CONFIG)]) == 130
    assert capsys.readouterr().err == "train_net.py: interrupted\n"


def test_debug_shows_where(main):
    with pytest.raises(ValueError, match="there is no key SEDE"):
        main(["--debug", "SEDE", "1"])


def test_processes_count_in_the_check(main, capsys, datasets):
    keys = ("MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "4")
    assert "multiple of the 3 processes" in call(main, capsys, "--num-processes", "3", *keys)
    assert "take --num-processes 3" in call(main, capsys, "--num-gpus", "3", *keys)


def test_errors_of_training_keep_their_trace():
    with pytest.raises(RuntimeError), explain_errors(debug=False):
        raise RuntimeError("a defect")


def test_unreadable_data_is_a_sentence_too(datasets, tmp_path, capsys):
    """Found when the trainer is built, after the checks."""
    options = argument_parser().parse_args(["--config-file", str(ROOT / CONFIG)])
    options.opts = ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu", "SOLVER.OPTIMIZER", "LION"]
    with pytest.raises(SystemExit) as caught:
        run(options)
    assert caught.value.code == 2
    assert "train_net.py: SOLVER.OPTIMIZER must be one of SGD" in capsys.readouterr().err


def test_bug_while_training_is_not_called_a_mistake(datasets, tmp_path, monkeypatch):
    def fail(self):
        raise ValueError("a defect")

    monkeypatch.setattr(Trainer, "run_step", fail)
    options = argparse.Namespace(
        config_file=str(ROOT / CONFIG),
        opts=["OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", "0"],
        eval_only=False,
        resume=False,
        debug=False,
    )
    with pytest.raises(ValueError, match="a defect"):
        run(options)


@pytest.mark.slow
def test_program_ends_with_the_sentence_and_code_2():
    command = [sys.executable, str(SCRIPT), "--config-file", str(ROOT / CONFIG), "SEDE", "1"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "train_net.py: command line: there is no key SEDE; did you mean SEED?" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


@pytest.mark.parametrize(("code", "expected"), [(2, 2), (1, None)])
def test_sentence_of_one_of_several_processes_ends_all(main, datasets, monkeypatch, code, expected):
    class Started:
        processes = (SimpleNamespace(exitcode=-15), SimpleNamespace(exitcode=code))

        def join(self):
            raise ProcessExitedException("it ended", 0, 1, code)

    monkeypatch.setattr(launch, "spawn", lambda *_, **__: Started())
    arguments = ["--num-processes", "2", "--config-file", str(ROOT / CONFIG)]
    arguments += ["MODEL.DEVICE", "cpu"]
    if expected is None:
        with pytest.raises(ProcessExitedException):
            main(arguments)
    else:
        assert main(arguments) == expected


@pytest.mark.slow
def test_a_diverged_run_ends_with_what_is_not_finite(datasets, tmp_path):
    """In a process of its own, which a NaN among the offsets of FreqFusion used to kill."""
    config = "configs/synthetic/semantic-segmentation/freqfusion_semantic_fpn_r18.yaml"
    keys = ("SOLVER.BASE_LR", "1e30", "SOLVER.MAX_ITER", "9", "SOLVER.IMS_PER_BATCH", "2")
    keys += ("INPUT.MIN_SIZE_TRAIN", "(48,)", "DATASETS.TEST", "()", "DATALOADER.NUM_WORKERS", "0")
    keys += ("OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu")
    command = [sys.executable, str(SCRIPT), "--config-file", str(ROOT / config), *keys]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "numbers are not finite: the loss loss_sem_seg is nan" in ended.stderr
