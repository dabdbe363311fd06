import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from freqfusion.data.registration import register_datasets
from freqfusion.data.synthetic import write_coco
from freqfusion.data.validation.datasets import DatasetReport
from freqfusion.data.validation.issues import ERROR, NOTE, DatasetIssue
from freqfusion.tools import check_dataset
from freqfusion.tools.check_dataset import main, render

TRAIN, VAL = (f"synthetic_panoptic_{split}_separated" for split in ("train", "val"))
SEMANTIC = "synthetic_semantic_train"
SETTINGS = """
MODEL:
  META_ARCHITECTURE: PanopticFPN
  ROI_HEADS: {NUM_CLASSES: 7}
  SEM_SEG_HEAD: {NUM_CLASSES: 7}
DATASETS:
  TRAIN: [synthetic_panoptic_train_separated]
  TEST: [synthetic_panoptic_val_separated]
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Synthetic data where the registration looks for it."""
    root = tmp_path / "synthetic"
    write_coco(root, num_train=2, num_val=1, size=(32, 32), workers=1, progress=False)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    forget()
    register_datasets()
    yield root
    forget()
    monkeypatch.undo()
    register_datasets()


def forget():
    for name in [name for name in DatasetCatalog.list() if name.startswith("synthetic_")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text(SETTINGS)
    return str(path)


def test_good_data(root, capsys):
    assert main([TRAIN, "--workers", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{TRAIN}: 0 errors, ")
    assert "; 2 images in " in last


def test_configuration(root, settings, capsys):
    assert main(["--config-file", settings, "--workers", "1"]) == 0
    assert "3 images in" in capsys.readouterr().out


def test_configuration_that_does_not_fit(root, settings, capsys):
    words = ["--config-file", settings, "MODEL.ROI_HEADS.NUM_CLASSES", "80", "--workers", "1"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert said.startswith("error: class count that differs (2)\n")
    assert f"is 80, but {TRAIN} has 7 thing_classes; expected: 7" in said


def test_names_with_a_configuration(root, settings, capsys):
    """Only the named ones are read, and they must fit it."""
    assert main([VAL, "--config-file", settings, "--workers", "1"]) == 0
    assert "1 image in" in capsys.readouterr().out


def test_errors_are_grouped_and_limited(root, tmp_path, capsys, monkeypatch):
    """There are 13 classes; one message of the two is shown, and all are in the JSON."""
    for path in (root / "panoptic_semseg_train").iterdir():
        Image.fromarray(np.full((32, 32), 13, np.uint8)).save(path)
    monkeypatch.setattr(check_dataset, "_MOST_MESSAGES", 1)
    words = [SEMANTIC, "--workers", "1"]
    assert main([*words, "--json", str(tmp_path / "report.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "error: label outside of the range (2)"
    assert "has the label 13 (1024 pixels); expected: 0..12, or 255 (ignored)" in lines[1]
    assert lines[2] == "  ... and 1 more; --json writes all"
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["errors"], content["images"], content["datasets"]) == (2, 2, [SEMANTIC])
    assert content["notes"] == len(content["findings"]) - 2
    first = content["findings"][0]
    assert set(first) == {"severity", "kind", "file", "found", "expected", "dataset"}
    assert first["dataset"] == SEMANTIC


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a data set, or a configuration with --config-file"),
        (["synthetic_panoptic_trains"], "did you mean synthetic_"),
        ([TRAIN, "--workers", "0"], "workers must be 1 or more"),
        (["--config-file", "YAML", "MODEL.MASK_ON"], "MODEL.MASK_ON"),
        (["--config-file", "YAML", "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"], "names no data"),
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        ([TRAIN, "--workers", "1", "--json", "nowhere/report.json"], "there is no folder nowhere"),
    ],
)
def test_wrong_calls(root, settings, capsys, arguments, message):
    assert main([settings if word == "YAML" else word for word in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith("check_dataset: ")
    assert message in last


def test_errors_come_before_notes():
    findings = (
        DatasetIssue(NOTE, "n", "f", "found", "expected"),
        DatasetIssue(ERROR, "e", "g", "found", "expected"),
    )
    assert render(DatasetReport(("a", "b"), findings, 4, 2.0)).splitlines() == [
        "error: e (1)",
        "  g: found; expected: expected",
        "note: n (1)",
        "  f: found; expected: expected",
        "a, b: 1 error, 1 note; 4 images in 2.0 s",
    ]
