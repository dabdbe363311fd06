"""Good checkpoints come back as they were written; damaged ones and other formats are told of."""

import collections
import functools
import pickle
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malicious import WEIGHTS, entries_of, saved, zipped

from freqfusion.safety import check_checkpoint, read_checkpoint
from freqfusion.safety.conventions import module_versions, read_for_detectron2


def training_state():
    """What a run saves, of every kind that PyTorch's parts have."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 5])
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "grad_scaler": torch.amp.GradScaler("cpu").state_dict(),
        "random": torch.get_rng_state(),
        "numpy": np.random.RandomState(3).get_state(),
        "score": np.float64(0.25),
        "iteration": 7,
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_run_saves(legacy, tmp_path):
    content = training_state()
    saved(tmp_path / "in.pth", content, legacy=legacy)
    check_checkpoint(tmp_path / "in.pth")
    found = read_checkpoint(str(tmp_path / "in.pth"))
    assert list(found) == list(content)
    for name, value in content["model"].items():
        assert torch.equal(found["model"][name], value)
    assert found["model"]._metadata == content["model"]._metadata
    assert module_versions(found["model"])["1"] == 2  # BatchNorm's
    state = found["optimizer"]["state"]
    assert torch.equal(state[0]["exp_avg"], content["optimizer"]["state"][0]["exp_avg"])
    assert found["scheduler"]["milestones"] == collections.Counter({3: 2, 5: 1})
    assert torch.equal(found["random"], content["random"])
    assert found["numpy"][0] == "MT19937"
    assert found["numpy"][1].tolist() == content["numpy"][1].tolist()
    assert type(found["score"]) is float
    assert (found["score"], found["iteration"]) == (0.25, 7)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3).t(),
        torch.arange(10.0)[2:8:3],
        torch.tensor(3, dtype=torch.uint8),
        torch.zeros(0, 4),
        torch.ones(2).expand(3, 2),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.complex64),
        torch.tensor([True, False]),
        torch.nn.Parameter(torch.ones(2)),
    ],
    ids=str,
)
def test_tensors_of_every_kind(tensor, legacy, tmp_path):
    saved(tmp_path / "in.pth", {"a": tensor, "same": tensor}, legacy=legacy)
    found = read_checkpoint(tmp_path / "in.pth")
    assert torch.equal(found["a"], tensor)
    assert found["a"].dtype == tensor.dtype
    assert found["a"].data_ptr() == found["same"].data_ptr()


def test_tensors_of_newer_kinds(tmp_path):
    content = {"a": torch.arange(3).to(torch.uint16), "b": torch.ones(2).to(torch.float8_e5m2)}
    saved(tmp_path / "in.pth", content | {"c": torch.float16, "d": torch.device("cpu", 0)})
    found = read_checkpoint(tmp_path / "in.pth")
    assert found["a"].tolist() == [0, 1, 2]
    assert (found["b"].dtype, found["c"]) == (torch.float8_e5m2, torch.float16)
    assert found["d"] == torch.device("cpu", 0)


def test_files_without_checksums(tmp_path):
    """PyTorch can leave them out."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        saved(tmp_path / "in.pth", WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(tmp_path / "in.pth")["model"]["a"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("legacy", [False, True])
def test_every_cut_is_noticed(legacy, tmp_path):
    saved(tmp_path / "whole.pth", WEIGHTS, legacy=legacy)
    data = (tmp_path / "whole.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for length in [*range(0, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.pth "):
            check_checkpoint(path)


def test_a_changed_number_is_noticed(tmp_path):
    path = tmp_path / "in.pth"
    saved(path, {"model": {"a": torch.full((64,), 1.5)}})
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.5)) + 2] ^= 1
    path.write_bytes(data)
    check_checkpoint(path)  # does not look at numbers
    with pytest.raises(
        ValueError, match=r"is damaged: data/0 is not what was written \(checksum\)"
    ):
        read_checkpoint(path)


@functools.cache
def run_file(legacy):
    with tempfile.TemporaryDirectory() as folder:
        saved(Path(folder) / "in.pth", training_state(), legacy=legacy)
        return (Path(folder) / "in.pth").read_bytes()


def read_or_told(path):
    told = ""
    try:
        found = read_checkpoint(path)
    except ValueError as error:
        told = str(error)
    assert told.startswith(str(path)) if told else isinstance(found, dict)


@given(place=st.integers(0, 10**6), value=st.integers(0, 255), legacy=st.booleans())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_damage_is_read_or_told(place, value, legacy, tmp_path):
    """A changed byte anywhere ends in a checkpoint or in a sentence, never in another error."""
    path = tmp_path / "in.pth"
    data = bytearray(run_file(legacy))
    data[place % len(data)] = value
    path.write_bytes(data)
    read_or_told(path)


@given(tail=st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_is_read_or_told(tail, tmp_path):
    path = tmp_path / "in.pkl"
    for head in (b"\x80\x02", b"(", pickle.dumps({"a": np.zeros(3)}, 2)[:-1]):
        path.write_bytes(head + tail)
        read_or_told(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "is a page of a web site and not the file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "is HDF5, as Keras writes it; read it with h5py"),
        (b"GGUF" + bytes(20), "is GGUF; read it with the package gguf"),
        (b"\x1f\x8b\x08" + bytes(20), "is compressed; unpack it with gunzip"),
        (bytes(257) + b"ustar" + bytes(300), "is a tar archive"),
        (b"PK\x03\x04" + bytes(90), "is an archive that is cut off or damaged"),
        (b"hello", "no checkpoint of a kind that is known; read are files of torch.save"),
    ],
)
def test_other_formats(data, message, tmp_path):
    path = tmp_path / "in.pth"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_other_archives(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.savez(file, a=np.zeros(2))
    zipped(tmp_path / "a.zip", {"weights/model.pth": b"x"})
    for name, message in (
        ("a.npz", "is an archive of numpy; read it with numpy.load"),
        ("a.zip", "is an archive without a checkpoint; unpack it"),
    ):
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / name)


def test_storage_that_is_too_small(tmp_path):
    entries = entries_of({"model": {"a": torch.zeros(8)}})
    zipped(tmp_path / "in.pth", entries | {"archive/data/0": bytes(16)})
    with pytest.raises(ValueError, match="a tensor of 8 numbers of 4 bytes has 16 bytes"):
        read_checkpoint(tmp_path / "in.pth")
    entries.pop("archive/data/0")
    zipped(tmp_path / "in.pth", entries)
    with pytest.raises(ValueError, match="the numbers of a tensor of 8 are missing"):
        read_checkpoint(tmp_path / "in.pth")


def test_caffe2_and_pycls(tmp_path):
    """Detectron2's rules for what is not its own."""
    blobs = {"conv1_w": np.ones((2, 1)), "conv1_w_momentum": np.ones((2, 1))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, 2))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(blobs, 2))
    for name in ("a.pkl", "b.pkl"):
        found = read_for_detectron2(tmp_path / name)
        assert list(found["model"]) == ["conv1_w"]
        assert (found["__author__"], found["matching_heuristics"]) == ("Caffe2", True)
    weights = {"a": torch.ones(1), "b.num_batches_tracked": torch.tensor(1)}
    torch.save({"model_state": weights}, tmp_path / "c.pyth")
    assert list(read_for_detectron2(tmp_path / "c.pyth")["model"]) == ["a"]
    torch.save(weights, tmp_path / "d.pth")
    assert list(read_for_detectron2(tmp_path / "d.pth")["model"]) == list(weights)


def test_weights_that_are_elsewhere(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "in.pth")
    with pytest.raises(ValueError, match="has a dict under 'state_dict' in place of a tensor"):
        read_for_detectron2(tmp_path / "in.pth")
    torch.save({"weights": torch.ones(1)}, tmp_path / "in.pyth")
    with pytest.raises(ValueError, match="has no 'model_state'"):
        read_for_detectron2(tmp_path / "in.pyth")
