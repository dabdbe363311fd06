"""Writers that are there, that are not, and that fail whenever they are called."""

import json
import logging
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from toy_configs import change, resnet18_cfg

from freqfusion.engine import Trainer
from freqfusion.engine.writers import build_writers


class FakeRun:
    def __init__(self, fails):
        self.logged, self.finished, self.fails = [], 0, fails

    def log(self, values, step):
        if self.fails:
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1
        if self.fails:
            raise ConnectionError("no network")


@pytest.fixture
def wandb(monkeypatch):
    """A module of that name, whose runs are kept in ``runs``; ``fails`` says where it fails."""
    module = ModuleType("wandb")
    module.runs, module.fails = [], ""

    def init(**options):
        if module.fails == "init":
            raise SystemExit(1)  # as where nobody has logged in
        module.runs.append(FakeRun(module.fails == "log"))
        module.runs[-1].options = options
        return module.runs[-1]

    module.init, module.Image = init, lambda picture: ("picture", picture.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def write(writers, start=0):
    with EventStorage(start) as storage:
        for storage.iter in range(start, start + 2):
            storage.put_scalar("loss", float(storage.iter), smoothing_hint=False)
            storage.put_image("picture", np.zeros((3, 4, 5), np.uint8))
            for writer in writers[1:]:  # not the log, which wants a whole training
                writer.write()
            assert not storage._vis_data
        for writer in writers[1:]:
            writer.close()


def cfg(folder, *names):
    return change(resnet18_cfg(), {"OUTPUT_DIR": str(folder), "WRITERS": names})


def test_wandb_gets_scalars_pictures_and_the_configuration(wandb, tmp_path):
    write(build_writers(cfg(tmp_path / "mine", "tensorboard", "wandb"), 2))
    [run] = wandb.runs
    assert [(step, values["loss"]) for step, values in run.logged] == [(0, 0.0), (1, 1.0)]
    assert run.logged[0][1]["picture"] == ("picture", (4, 5, 3))
    assert run.finished == 1
    assert run.options["name"] == "mine"
    assert run.options["project"] == "freqfusion"
    assert run.options["config"]["MODEL"]["RESNETS"]["DEPTH"] == 18
    assert list((tmp_path / "mine").glob("events.out.tfevents.*"))
    write(build_writers(cfg(tmp_path / "mine", "wandb"), 4), start=2)
    assert wandb.runs[1].options["id"] == run.options["id"]
    write(build_writers(cfg(tmp_path / "other", "wandb"), 4))
    assert wandb.runs[2].options["id"] != run.options["id"]


@pytest.mark.parametrize(
    ("fails", "words"),
    [("init", "SystemExit: 1"), ("log", "ConnectionError: no network")],
)
def test_one_that_fails_is_switched_off_once(fails, words, wandb, tmp_path, caplog):
    wandb.fails = fails
    with caplog.at_level(logging.WARNING):
        write(build_writers(cfg(tmp_path, "wandb", "tensorboard"), 2))
    assert caplog.text.count("the writer wandb of WRITERS is switched off") == 1
    assert words in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [0.0, 1.0]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_missing_packages_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING):
        write(build_writers(cfg(tmp_path, "wandb", "tensorboard"), 2))
    assert caplog.text.count("switched off") == 2
    assert ": pip install wandb" in caplog.text
    assert ": pip install tensorboard" in caplog.text


def test_none_is_needed(tmp_path):
    write(build_writers(cfg(tmp_path), 2))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_run_ends_the_same_with_a_writer_that_fails(semantic_cfg, wandb, tmp_path):
    wandb.fails = "log"
    weights = []
    for names in ((), ("wandb",)):
        run = change(semantic_cfg.clone(), {"WRITERS": names, "DATASETS__TEST": ()})
        run.OUTPUT_DIR = str(tmp_path / f"run{len(names)}")
        seed_all_rng(1)
        trainer = Trainer(run)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert len(wandb.runs) == 1
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
