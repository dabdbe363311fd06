"""The demo: its steps, what it says, and what it refuses; the whole of it when asked for."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from freqfusion.data.synthetic import NUM_CLASSES
from freqfusion.tools import demo
from freqfusion.tools._torch_demo import FUSIONS, build_network

ROOT = Path(__file__).parents[2]


@pytest.fixture
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: name)


def test_outside_of_a_checkout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: name)
    assert demo.main([]) == 2
    assert "run this from a checkout of the project: there is no train_net.py here" in (
        capsys.readouterr().err
    )


def test_does_not_remove_what_is_not_its_own(in_checkout, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert demo.main(["--output", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").is_file()


@pytest.mark.parametrize("mark", demo.MARKS)
def test_replaces_an_earlier_demo(in_checkout, tmp_path, monkeypatch, mark):
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).write_text("{}")
    (tmp_path / "old.png").write_text("")
    monkeypatch.setattr(demo, "_run", lambda *arguments: None)
    monkeypatch.setattr(demo, "_scores", lambda root: {})
    assert demo.main(["--output", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


def test_names_the_step_that_failed(in_checkout, tmp_path, capsys, monkeypatch):
    class Failed:
        returncode = 3

    monkeypatch.setattr(demo.subprocess, "run", lambda *arguments, **options: Failed())
    assert demo.main(["--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert "$ python -m freqfusion.tools.synthesize" in captured.out
    assert "the step above ended with exit status 3" in captured.err


def test_reports_what_was_measured(in_checkout, tmp_path, capsys, monkeypatch):
    """Scores are those of results.json, whatever they are."""
    steps = []

    class Succeeded:
        returncode = 0

    def run(command, **options):
        steps.append(command[1:3])
        place = tmp_path / "out" / "run"
        place.mkdir(exist_ok=True)
        scores = {
            "panoptic_seg": {"PQ": 61.5, "PQ_th": 50.25, "PQ_st": 70.0},
            "segm": {"AP": 30.5},
            "bbox": {"AP": 29.75},
            "sem_seg": {"mIoU": 77.0},
        }
        content = {"datasets": {demo.DATASET: scores}}
        (place / "results.json").write_text(json.dumps(content))
        return Succeeded()

    monkeypatch.setattr(demo.subprocess, "run", run)
    assert demo.main(["--output", str(tmp_path / "out")]) == 0
    assert [name for step in steps for name in step if name.startswith("freqfusion")] == [
        "freqfusion.tools.synthesize",
        "freqfusion.tools.visualize",
        "freqfusion.tools.plot_metrics",
    ]
    printed = capsys.readouterr().out
    assert "PQ              61.5" in printed
    assert str(tmp_path / "out" / "pictures" / "index.html") in printed
    assert json.loads((tmp_path / "out" / "demo.json").read_text())["mIoU"] == 77.0


@pytest.fixture
def without_detectron2(monkeypatch):
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)


def test_without_detectron2_two_networks_are_compared(without_detectron2, tmp_path, capsys):
    options = ["--steps", "2", "--train", "4", "--val", "4", "--seed", "3"]
    assert demo.main([*options, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "Detectron2 is not installed" in printed
    note = json.loads((tmp_path / "demo.json").read_text())
    assert (note["seed"], note["steps"], note["train"]) == (3, 2, 4)
    assert list(note["networks"]) == list(FUSIONS)
    for name, network in note["networks"].items():
        line = next(one for one in printed.splitlines() if one.startswith(name))
        assert f"{100 * network['mean IoU']:.1f}" in line
        assert f"{100 * network['boundary IoU']:.1f}" in line


def test_networks_differ_in_their_fusion_only():
    plain, fused = (build_network(name, NUM_CLASSES, seed=3).state_dict() for name in FUSIONS)
    assert all(torch.equal(value, fused[name]) for name, value in plain.items())
    assert {name.split(".")[0] for name in set(fused) - set(plain)} == {"fusions"}


@pytest.mark.parametrize("fusion", FUSIONS)
def test_networks_take_odd_sizes(fusion):
    assert build_network(fusion, 3, seed=0)(torch.zeros(2, 3, 37, 53)).shape == (2, 3, 37, 53)


def test_output_that_is_a_file(without_detectron2, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert demo.main(["--output", str(file)]) == 2
    assert "demo: " in capsys.readouterr().err


@pytest.mark.e2e
def test_networks_without_detectron2_learn(without_detectron2, tmp_path):
    """Both are far above chance, which is 1 of 13 classes."""
    assert demo.main(["--output", str(tmp_path)]) == 0
    networks = json.loads((tmp_path / "demo.json").read_text())["networks"]
    assert all(network["mean IoU"] > 0.2 for network in networks.values())


@pytest.mark.e2e
@pytest.mark.detectron2
def test_reaches_its_quality(tmp_path, monkeypatch):
    """The whole demo: PQ 60 or more, and pictures that are there."""
    monkeypatch.chdir(ROOT)
    assert demo.main(["--output", str(tmp_path / "demo")]) == 0
    note = json.loads((tmp_path / "demo" / "demo.json").read_text())
    assert note["PQ"] >= 60
    pictures = sorted((tmp_path / "demo" / "pictures").rglob("*.png"))
    assert len(pictures) >= 12
    assert Image.open(pictures[0]).width > 300
    assert (tmp_path / "demo" / "pictures" / "index.html").stat().st_size > 1000
    assert Image.open(tmp_path / "demo" / "curves.png").width > 300
