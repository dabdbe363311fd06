"""A configuration for a GPU runs where there is none, with one line in the log."""

import argparse
import logging
from pathlib import Path

import pytest
import torch

from freqfusion.engine import load_config, setup
from freqfusion.engine.setup import fit_device

CONFIG = "configs/synthetic/panoptic-segmentation/panoptic_fpn_r18.yaml"


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def set_up(tmp_path, *opts):
    path = str(Path(__file__).parents[2] / CONFIG)
    opts = ["OUTPUT_DIR", str(tmp_path), *opts]
    return setup(argparse.Namespace(config_file=path, opts=opts, eval_only=False, resume=False))


def test_mixed_precision_goes_with_the_gpu(no_gpu):
    cfg = load_config("", ["SOLVER.AMP.ENABLED", "True"])
    assert fit_device(cfg)
    assert (cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED) == ("cpu", False)


def test_mixed_precision_stays_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = load_config("", ["SOLVER.AMP.ENABLED", "True"])
    assert not fit_device(cfg)
    assert (cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED) == ("cuda", True)


@pytest.mark.parametrize("name", ["cdua", "cudaa", "vulkan", ""])
def test_device_that_is_not_there(name):
    """Of these torch knows "vulkan" only, for which it has to be built."""
    with pytest.raises(ValueError, match=f"MODEL.DEVICE {name} is no device that torch can use"):
        fit_device(load_config("", ["MODEL.DEVICE", name]))


class Messages(logging.Handler):
    """Keeps warnings; hung onto the logger, since Detectron2 stops them on their way up."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.fixture
def messages():
    handler, logger = Messages(), logging.getLogger("freqfusion")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ((), "There is no GPU: running on the CPU"),
        (
            ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"),
            "There is no GPU: running on the CPU",
        ),
        (
            ("SOLVER.AMP.ENABLED", "True"),
            "There is no GPU: running on the CPU, in full precision",
        ),
    ],
)
def test_one_line_tells_of_the_cpu(no_gpu, datasets, tmp_path, messages, keys, line):
    cfg = set_up(tmp_path, *keys)
    assert messages == [line]
    assert cfg.is_frozen()
    assert (tmp_path / "config.yaml").is_file()


def test_cpu_that_was_asked_for_is_no_news_but_warnings_are(no_gpu, datasets, tmp_path, messages):
    set_up(tmp_path, "MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", "2")
    [message] = messages
    assert "FREEZE_AT 2 freezes random weights" in message


def test_what_is_checked_already_is_not_checked_again(datasets, tmp_path):
    path = str(Path(__file__).parents[2] / CONFIG)
    opts = ["OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", "none.pth"]
    arguments = argparse.Namespace(config_file=path, opts=opts)
    with pytest.raises(ValueError, match=r"none\.pth, which does not exist"):
        setup(arguments)
    assert setup(arguments, checked=True).MODEL.WEIGHTS == "none.pth"
