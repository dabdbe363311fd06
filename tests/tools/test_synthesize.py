import json

import pytest

from freqfusion.tools._arguments import parse_size
from freqfusion.tools.synthesize import main


def arguments(folder, *more):
    small = ["--num-train", "2", "--num-val", "1", "--size", "16x24", "--workers", "1"]
    return ["--output", str(folder), *small, *more]


def test_coco(tmp_path, capsys):
    assert main(arguments(tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "3 scenes of 16x24 (2 train, 1 val), coco layout" in said
    assert str(tmp_path / "out") in said
    assert (tmp_path / "out/annotations/instances_train.json").exists()
    assert (tmp_path / "out/val/000000000001.jpg").exists()


def test_cityscapes(tmp_path):
    assert main(arguments(tmp_path / "out", "--layout", "cityscapes")) == 0
    assert (tmp_path / "out/gtFine/cityscapes_panoptic_val.json").exists()
    assert len(list((tmp_path / "out/leftImg8bit").rglob("*.png"))) == 3


def test_second_run_needs_overwrite(tmp_path, capsys):
    assert main(arguments(tmp_path / "out")) == 0
    assert main(arguments(tmp_path / "out")) == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("synthesize: ")
    assert "is not empty" in said.err
    assert main(arguments(tmp_path / "out", "--overwrite")) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "4x4"], "size is 4x4"),
        (["--num-train", "-1"], "num_train must be 0 or more"),
        (["--workers", "0"], "workers must be 1 or more"),
        (["--seed", "-5"], "seed must be 0 or more"),
        (["--num-tune", "-1"], "num_tune must be 0 or more"),
        (["--line-thickness", "0"], "line_thickness must be 1 or more, not 0"),
        (["--layout", "rehearsal", "--num-tune", "2"], "the rehearsal layout has full scenes"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, more, message):
    assert main(arguments(tmp_path / "out", *more)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert message in said.err


def test_size():
    assert parse_size("256x512") == (256, 512)
    assert parse_size("8X9") == (8, 9)


def test_thickness_detail_and_tune_are_noted(tmp_path, capsys):
    more = ["--detail", "thin", "--line-thickness", "1", "--num-tune", "1"]
    assert main(arguments(tmp_path / "out", *more)) == 0
    assert "4 scenes of 16x24 (2 train, 1 val, 1 tune)" in capsys.readouterr().out
    note = json.loads((tmp_path / "out/synthetic.json").read_text())
    assert (note["detail"], note["num_tune"], note["line_thickness"]) == ("thin", 1, 1)
    assert (tmp_path / "out/tune/000000000001.jpg").exists()
    assert (tmp_path / "out/annotations/panoptic_tune.json").exists()
