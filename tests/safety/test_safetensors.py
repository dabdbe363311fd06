"""safetensors in and out; a list that does not fit is refused before anything is read."""

import json
import struct
import sys
from itertools import pairwise

import pytest
import torch

from freqfusion.safety import check_checkpoint, read_checkpoint, write_safetensors
from freqfusion.safety.conventions import module_versions, read_for_detectron2
from freqfusion.tools import convert_checkpoint

safetensors = pytest.importorskip("safetensors.torch")


def test_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    base = torch.arange(6.0).reshape(2, 3)
    weights = {"a": base, "turned": base.t(), "b": torch.ones(3, dtype=torch.bfloat16)}
    write_safetensors(path, weights, author="me", versions={"": 1, "x": 3}, heuristics=True)
    check_checkpoint(path)
    found = read_for_detectron2(path)
    assert set(found["model"]) == set(weights)
    for name, value in weights.items():
        assert torch.equal(found["model"][name], value)
    assert (found["__author__"], found["matching_heuristics"]) == ("me", True)
    assert module_versions(found["model"]) == {"": 1, "x": 3}
    assert not module_versions(weights)


def test_files_of_others(tmp_path):
    safetensors.save_file({"a": torch.ones(2, 2)}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")  # by what it is
    assert torch.equal(found["model"]["a"], torch.ones(2, 2))


def test_between_formats(tmp_path, capsys):
    """A run's checkpoint to safetensors and back: weights, versions, names."""
    model = torch.nn.BatchNorm1d(3)
    torch.save({"model": model.state_dict(), "iteration": 3}, tmp_path / "in.pth")
    steps = ("in.pth", "b.safetensors", "c.pth")
    for source, target in pairwise(steps):
        command = [str(tmp_path / source), str(tmp_path / target), "--keep-names"]
        assert convert_checkpoint.main(command) == 0
        assert "5 weights, names kept" in capsys.readouterr().out
    found = torch.load(tmp_path / "c.pth", weights_only=True)["model"]
    assert set(found) == set(model.state_dict())
    assert module_versions(found) == module_versions(model.state_dict()) == {"": 2}
    assert not list(tmp_path.glob("*.part"))
    command = [str(tmp_path / "in.pth"), str(tmp_path / "d.pth"), "--keep-names", "--prefix", "x"]
    assert convert_checkpoint.main(command) == 2
    assert "changes nothing but the format" in capsys.readouterr().err


@pytest.mark.parametrize("listed", [b"{", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F4"}}'])
def test_lists_that_are_none(listed, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(listed) + 2) + b"{" + listed + b" ")
    with pytest.raises(ValueError, match="has a damaged list of tensors"):
        check_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F4"}, "of the type 'F4', which is not known"),
        ({"shape": [-2]}, "has a size that is none"),
        ({"shape": [3]}, "does not fit its 8 bytes"),
        ({"data_offsets": [0, 16], "shape": [4]}, "have 16 bytes, and 8 are there"),
        ({"data_offsets": [0, True], "shape": []}, "has a size that is none"),
    ],
)
def test_lists_that_do_not_fit(change, message, tmp_path):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change
    listed = json.dumps({"a": entry}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(listed)) + listed + bytes(8))
    with pytest.raises(ValueError, match=message):
        check_checkpoint(path)


def test_without_the_package(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    safetensors.save_file({"a": torch.ones(2)}, path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    check_checkpoint(path)
    with pytest.raises(ValueError, match=r"a\.safetensors needs the package safetensors: pip inst"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="pip install"):
        write_safetensors(path, {"a": torch.ones(2)}, author="me")
