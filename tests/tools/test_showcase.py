"""The showcase on a few tiny scenes: it reports what it measured and draws it."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from freqfusion.data.synthetic import CLASS_NAMES, NUM_CLASSES, VOID_LABEL
from freqfusion.tools import showcase
from freqfusion.tools._showcase.figure import colorize, error_map
from freqfusion.tools._showcase.model import FUSIONS, build_model

TINY = ["--steps", "2", "--batch", "2", "--train", "4", "--test", "4", "--size", "32"]


def test_writes_figure_and_numbers(tmp_path, capsys):
    assert showcase.main([*TINY, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "showcase.json").read_text())
    assert [network["fusion"] for network in record["networks"]] == list(FUSIONS)
    for network in record["networks"]:
        present = [score for score in network["iou"] if not np.isnan(score)]
        assert network["mean_iou"] == pytest.approx(np.mean(present))
        assert f"{100 * network['mean_iou']:.1f}" in printed
        assert f"{100 * network['mean_boundary_iou']:.1f}" in printed
    assert all(name in printed for name in CLASS_NAMES)
    with Image.open(tmp_path / "out" / "showcase.png") as picture:
        assert picture.width > picture.height > 400
        assert np.asarray(picture.convert("L")).std() > 20


@pytest.mark.e2e
def test_default_run_learns(tmp_path):
    """The run of the demo: both networks are far above chance (1 of 13 classes)."""
    assert showcase.main(["--output", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "showcase.json").read_text())
    for network in record["networks"]:
        assert network["mean_iou"] > 0.2


def test_networks_differ_in_their_fusion_only():
    plain, fused = (build_model(name, NUM_CLASSES, seed=3).state_dict() for name in FUSIONS)
    assert all(torch.equal(value, fused[name]) for name, value in plain.items())
    assert {name.split(".")[0] for name in set(fused) - set(plain)} == {"fusions"}


def test_takes_odd_sizes():
    for name in FUSIONS:
        assert build_model(name, 3, seed=0)(torch.zeros(2, 3, 37, 53)).shape == (2, 3, 37, 53)


def test_colours():
    truth = np.array([[0, 1, VOID_LABEL]], dtype=np.uint8)
    wrong = error_map(np.array([[0, 0, 0]], dtype=np.uint8), truth)
    assert wrong[0, 1].tolist() == [215, 25, 28]
    assert wrong[0, 2].tolist() == [0, 0, 0]
    assert colorize(truth)[0, 0].tolist() != colorize(truth)[0, 1].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "not a whole number from 2 on"),
        (["--size", "8"], "not a whole number from 32 on"),
        (["--seed", "-1"], "expected one argument|not a whole number from 0 on"),
        (["--stpes", "3"], "unrecognized arguments: --stpes"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        showcase.main(arguments)
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_output_that_is_a_file(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert showcase.main([*TINY, "--output", str(file)]) == 2
    assert "showcase: " in capsys.readouterr().err
