import json
import shutil

import numpy as np
import pytest
from PIL import Image

from freqfusion.data.synthetic import CATEGORIES, write_cityscapes, write_coco
from freqfusion.tools.prepare import main


@pytest.fixture
def ade20k(tmp_path):
    """Twenty pictures: enough for two processes."""
    folder = tmp_path / "ADEChallengeData2016/annotations/validation"
    folder.mkdir(parents=True)
    for number in range(20):
        Image.fromarray(np.full((4, 6), number, np.uint8)).save(folder / f"{number:02d}.png")
    return tmp_path


def test_summary_and_second_run(ade20k, capsys):
    assert main(["ade20k", "--root", str(ade20k), "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    output = ade20k / "ADEChallengeData2016/annotations_detectron2/validation"
    assert lines[0] == f"{output}: 20 written, 0 there already"
    assert lines[1].startswith("ade20k is ready after ")
    assert len(lines) == 2
    assert main(["ade20k", "--root", str(ade20k), "--workers", "1"]) == 0
    assert ": 0 written, 20 there already" in capsys.readouterr().out
    assert main(["ade20k", "--root", str(ade20k), "--workers", "1", "--overwrite"]) == 0
    assert ": 20 written, 0 there already" in capsys.readouterr().out


def test_root_is_the_variable(ade20k, capsys, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(ade20k))
    assert main(["ade20k", "--workers", "1"]) == 0
    assert str(ade20k) in capsys.readouterr().out


def test_cityscapes(tmp_path, capsys):
    root = write_cityscapes(
        tmp_path / "cityscapes", num_train=1, num_val=1, size=(16, 24), workers=1, progress=False
    )
    shutil.rmtree(root / "gtFine/cityscapes_panoptic_val")
    assert main(["cityscapes", "--root", str(tmp_path), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "cityscapes_panoptic_train: 0 written, 1 there already" in said
    assert "cityscapes_panoptic_val: 1 written, 0 there already" in said
    assert "cityscapes_stuff_val: 1 written" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coco", "--root", "nowhere"], "there is no folder nowhere/coco; put the data set there"),
        (["ade20k", "--root", "ROOT", "--workers", "0"], "workers must be 1 or more"),
    ],
)
def test_mistakes_are_one_sentence(ade20k, capsys, arguments, message):
    assert main([str(ade20k) if word == "ROOT" else word for word in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("prepare: ")
    assert message in said.err


def test_declared_data_set(tmp_path, capsys):
    """The maps are those that the scenes come with; panoptic ground truth alone is not enough."""
    root = write_coco(
        tmp_path / "scenes", num_train=2, num_val=1, size=(16, 24), workers=1, progress=False
    )
    classes = [{"id": c.id, "name": c.name, "thing": c.is_thing} for c in CATEGORIES]
    train = {
        "images": "train",
        "panoptic_json": "annotations/panoptic_train.json",
        "panoptic": "panoptic_train",
    }
    declaration = {"name": "own", "root": "scenes", "classes": classes, "splits": {"train": train}}
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(declaration))  # JSON is YAML
    assert main([str(file), "--workers", "1"]) == 2
    assert "has no split with panoptic_json, panoptic, stuff" in capsys.readouterr().err
    train["stuff"] = "made"
    file.write_text(json.dumps(declaration))
    assert main([str(file), "--workers", "1"]) == 0
    assert "made: 2 written, 0 there already" in capsys.readouterr().out
    for path in (root / "panoptic_stuff_train").iterdir():
        with Image.open(path) as expected, Image.open(root / "made" / path.name) as made:
            np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))
