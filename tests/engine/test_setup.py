"""A configuration for a GPU runs where there is none, and data sets are registered once."""

import argparse
import logging
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from freqfusion.data.registration import register_datasets
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


@pytest.mark.parametrize("gpu", [False, True])
def test_mixed_precision_goes_with_the_gpu(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    cfg = load_config("", ["SOLVER.AMP.ENABLED", "True"])
    assert fit_device(cfg) == (not gpu)
    assert ("cuda" if gpu else "cpu", gpu) == (cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED)


@pytest.mark.parametrize("name", ["cdua", "vulkan"])
def test_device_that_is_not_there(name):
    """Of these torch knows "vulkan" only, for which it has to be built."""
    with pytest.raises(ValueError, match=f"MODEL.DEVICE {name} is no device that torch can use"):
        fit_device(load_config("", ["MODEL.DEVICE", name]))


@pytest.fixture
def messages():
    """Warnings of a run, which Detectron2 stops on their way up to pytest's handler."""
    found, logger, handler = [], logging.getLogger("freqfusion"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logger.addHandler(handler)
    yield found
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


def test_registering_twice_changes_nothing(datasets):
    metadata = MetadataCatalog.get("synthetic_panoptic_val_separated")
    before = metadata.panoptic_root
    register_datasets()
    assert metadata.panoptic_root == before
    assert before.startswith(str(datasets))
