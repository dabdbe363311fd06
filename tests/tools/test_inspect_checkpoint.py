"""What is told of a file: counts and sizes by hand; no numbers are read, and nothing is run."""

import hashlib
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from malicious import entries_of, zipped

from freqfusion.tools import inspect_checkpoint

MODEL = {
    "backbone.a.weight": torch.zeros(2, 3),
    "backbone.a.bias": torch.zeros(2, dtype=torch.float16),
    "backbone.b.weight": torch.zeros(5, dtype=torch.int64),
    "head.weight": torch.tensor(1.0),
}


@pytest.fixture
def checkpoint(tmp_path):
    optimizer = {"state": {0: {"exp": torch.zeros(2, 3)}}, "param_groups": [{"lr": 0.5}]}
    trainer = {"iteration": 41, "_trainer": {"optimizer": optimizer}}
    path = tmp_path / "in.pth"
    torch.save({"model": MODEL, "trainer": trainer, "iteration": 41, "note": "a\x1b[2J"}, path)
    return path


def told(capsys, *arguments, code=0):
    assert inspect_checkpoint.main([str(word) for word in arguments]) == code
    return json.loads(capsys.readouterr().out)


def test_everything_as_json(checkpoint, capsys):
    about = told(capsys, checkpoint, "--json")
    assert about["file"] == str(checkpoint)
    assert about["bytes"] == checkpoint.stat().st_size
    assert about["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (about["format"], about["problem"]) == ("torch.save", None)
    # 6 of 4 bytes, 2 of 2, 5 of 8, 1 of 4.
    assert (about["weights"], about["tensors"], about["parameters"]) == ("model", 4, 14)
    assert about["tensor_bytes"] == 24 + 4 + 40 + 4
    assert about["groups"] == [
        {
            "prefix": "backbone.a",
            "tensors": 2,
            "parameters": 8,
            "bytes": 28,
            "dtypes": ["float16", "float32"],
        },
        {
            "prefix": "backbone.b",
            "tensors": 1,
            "parameters": 5,
            "bytes": 40,
            "dtypes": ["int64"],
        },
        {
            "prefix": "head.weight",
            "tensors": 1,
            "parameters": 1,
            "bytes": 4,
            "dtypes": ["float32"],
        },
    ]
    beside = about["beside"]
    assert (beside["iteration"], beside["trainer.iteration"]) == ("41", "41")
    assert beside["trainer._trainer.optimizer.state"] == "1 entries: 0, 1 tensors, 24 bytes"
    assert beside["note"] == "a?[2J"  # nothing for the terminal to do
    assert all(entry["read"] for entry in about["imports"])
    assert {"name": "torch.FloatStorage", "read": True} in about["imports"]


def test_depth(checkpoint, capsys):
    about = told(capsys, checkpoint, "--json", "--depth", 1, "--no-sha256")
    assert [group["prefix"] for group in about["groups"]] == ["backbone", "head"]
    assert about["sha256"] is None


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("backbone", ["backbone.a.weight", "backbone.a.bias", "backbone.b.weight"]),
        ("*.weight", ["backbone.a.weight", "backbone.b.weight", "head.weight"]),
        ("backbone.?.weight", ["backbone.a.weight", "backbone.b.weight"]),
        ("nothing", []),
    ],
)
def test_names(pattern, names, checkpoint, capsys):
    about = told(capsys, checkpoint, "--json", "--names", pattern)
    assert list(about["names"]) == names
    assert inspect_checkpoint.main([str(checkpoint), "--names", pattern]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == names or lines == ["no name fits"]


def test_text(checkpoint, capsys):
    assert inspect_checkpoint.main([str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{checkpoint}: torch.save, ")
    assert "weights: 4 tensors under 'model', 14 numbers, 72 B" in lines
    assert "  backbone.a   2        8        28 B  float16, float32" in lines
    assert lines[-1] == "It is read without running code."


def test_no_numbers_are_read(tmp_path, capsys):
    """A file whose tensors would be 4 GiB is a hole on the disk, and in memory nothing at all."""
    listed = {"a": {"dtype": "F32", "shape": [1 << 30], "data_offsets": [0, 4 << 30]}}
    head = json.dumps(listed).encode()
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + (4 << 30))
    about = told(capsys, path, "--json", "--no-sha256")
    assert (about["format"], about["parameters"]) == ("safetensors", 1 << 30)
    array = pickle.dumps({"a": np.zeros(3, np.float32)}, 4)
    at = array.index(b"C\x0c")
    large = array[:at] + b"\x8e" + struct.pack("<Q", 4 << 30)
    large = large.replace(b"K\x03\x85", b"\x8a\x04\x00\x00\x00\x40\x85")
    tail = array[at + 14 :]
    # Frames count bytes, and nobody needs them.
    assert large[2:3] == b"\x95"
    with (tmp_path / "a.pkl").open("wb") as file:
        file.write(large[:2] + large[11:])
        file.seek(4 << 30, 1)
        file.write(tail)
    about = told(capsys, tmp_path / "a.pkl", "--json", "--no-sha256")
    assert (about["format"], about["parameters"]) == ("pickle", 1 << 30)
    assert about["tensor_bytes"] == 4 << 30


def test_caffe2_and_bare_weights(tmp_path, capsys):
    blobs = {"conv1_w": np.zeros((2, 1), np.float64), "lr": np.float32(1)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    about = told(capsys, tmp_path / "a.pkl", "--json")
    assert (about["weights"], about["tensors"], about["tensor_bytes"]) == ("blobs", 1, 16)
    torch.save(MODEL, tmp_path / "b.pth")
    about = told(capsys, tmp_path / "b.pth", "--json")
    assert (about["weights"], about["tensors"]) == ("", 4)


def test_a_refused_file_is_told_of_as_far_as_it_goes(tmp_path, capsys):
    """Its tensors are listed; what it would import is named."""
    entries = entries_of({"model": MODEL})
    pickled = entries["archive/data.pkl"][:-1] + b"cos\nsystem\n0."
    zipped(tmp_path / "in.pth", entries | {"archive/data.pkl": pickled})
    about = told(capsys, tmp_path / "in.pth", "--json", code=1)
    assert (about["tensors"], about["parameters"]) == (4, 14)
    assert {"name": "os.system", "read": False} in about["imports"]
    assert about["problem"].startswith("names os.system, and only tensors")
    assert inspect_checkpoint.main([str(tmp_path / "in.pth")]) == 1
    assert "names what could run code: os.system" in capsys.readouterr().out


def test_files_that_are_none(tmp_path, capsys):
    assert inspect_checkpoint.main([str(tmp_path / "none.pth")]) == 2
    assert capsys.readouterr().err.endswith("none.pth is not a file\n")
    (tmp_path / "a.pth").write_text("hello")
    about = told(capsys, tmp_path / "a.pth", "--json", code=1)
    assert (about["format"], about["tensors"]) == ("", 0)
    assert inspect_checkpoint.main([str(tmp_path / "a.pth")]) == 1
    assert "a.pth: not a checkpoint, 5 B" in capsys.readouterr().out
