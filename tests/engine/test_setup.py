"""A configuration for a GPU runs where there is none, and data sets are registered once."""

import argparse
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog

from freqfusion.data.registration import register_datasets
from freqfusion.engine import load_config, setup
from freqfusion.engine.setup import fit_device, summary

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


def test_five_lines_come_first(no_gpu, datasets, tmp_path, caplog):
    """Then Detectron2's own; of an evaluation there is no training to tell of."""
    threads = torch.get_num_threads()
    keys = ["MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "30", "OUTPUT_DIR", str(tmp_path)]
    options = argparse.Namespace(config_file="", opts=keys, eval_only=False)
    cfg = load_config(str(Path(__file__).parents[2] / CONFIG), keys)
    data = "tested on synthetic_panoptic_val_separated"
    expected = [
        "model    PanopticFPN on build_resnet_freqfusion_fpn_backbone (no file), random weights",
        f"data     trained on synthetic_panoptic_train_separated, {data}",
        f"device   cpu ({threads} thread{'s' * (threads > 1)}), 1 process",
        "length   30 iterations of 4 images",
        f"output   {tmp_path}",
    ]
    assert list(summary(cfg, options)) == expected
    options.eval_only = True
    assert list(summary(cfg, options))[1::2] == [f"data     {data}", "length   one evaluation"]


def test_long_dumps_are_in_the_file_only(no_gpu, datasets, tmp_path):
    """In a process of its own, where Detectron2's loggers are new."""
    file = Path(__file__).parents[2] / CONFIG
    code = f"""
import argparse, logging
from freqfusion.engine import setup
options = argparse.Namespace(config_file={str(file)!r}, eval_only=False, resume=False)
options.opts = ["OUTPUT_DIR", {str(tmp_path)!r}, "MODEL.DEVICE", "cpu"]
for options.debug in (False, True):
    setup(options, checked=True)
    logging.getLogger("detectron2.engine.defaults").info("Model:\\nPanopticFPN(")
    print("=== done")
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    quiet, debugged, _ = answer.stdout.split("=== done\n")
    assert "model    PanopticFPN" in quiet.splitlines()[0]
    for dump in ("Running with full config", "Environment info", "Model:"):
        assert dump not in quiet
        assert dump in debugged
        assert (tmp_path / "log.txt").read_text().count(dump) == 2
