"""Checkpoints and YAML of others: read as they were written, or refused, and no code is run."""

import collections
import datetime
import functools
import os
import pickle
import struct
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malicious import LIARS, PAYLOADS, WEIGHTS, in_archive, saved, zipped

from freqfusion.files import (
    _STAND_INS,
    check_checkpoint,
    module_versions,
    parse_yaml,
    read_checkpoint,
    read_for_detectron2,
    read_yaml_text,
    write_whole,
)
from freqfusion.tools import convert_checkpoint
from freqfusion.tools.convert_checkpoint import read, write_weights


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture(params=PAYLOADS)
def payload(request, tmp_path, marker):
    path = tmp_path / request.param
    PAYLOADS[request.param](path, marker)
    yield path
    assert not marker.exists()


# What pickle.load or torch.load runs; the others are formats that other readers run.
RUN = [name for name in PAYLOADS if not name.startswith(("object", "torchscript", "torch_load"))]


@pytest.mark.parametrize("name", RUN)
def test_they_would_do_harm(name, tmp_path, marker):
    """The careless way runs them: the tests are of real files."""
    path = tmp_path / name
    PAYLOADS[name](path, marker)
    try:
        if name.endswith(".pkl") or name.startswith("protocol0"):
            pickle.loads(path.read_bytes(), encoding="latin1")
        else:
            torch.load(path, weights_only=False)
    except (RuntimeError, TypeError, ValueError):
        pass
    assert marker.exists()


def test_payloads_are_not_read(payload):
    for read_it in (read_checkpoint, check_checkpoint):
        with pytest.raises(ValueError, match=f"^{payload} ") as caught:
            read_it(payload)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("pickle.pkl", r"posix\.system"),
        ("caffe2.pkl", r"builtins\.eval"),
        ("protocol0.pth", r"posix\.system"),
        ("legacy_head.pth", r"posix\.system"),
        ("stack_global.pkl", r"os\.system"),
        ("inst.pkl", r"os\.system"),
        ("obj.pth", r"os\.system"),
        ("attributes.pkl", r"builtins\.getattr"),
        ("torch_load.pth", r"torch\.serialization\.load"),
    ],
)
def test_what_would_be_run_is_named(name, harm, tmp_path, marker):
    PAYLOADS[name](tmp_path / name, marker)
    expected = rf"names {harm}, and only tensors, arrays .* could run code\. Where you trust"
    with pytest.raises(ValueError, match=expected):
        check_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", [*_STAND_INS, "torch.FloatStorage", "torch.Tensor"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_file_does_not_change_how_others_are_read(archive, name, tmp_path):
    """Attributes that a pickle sets on what it was given would outlive it."""
    module, _, attribute = name.rpartition(".")
    state = b"}(U\x0c__setstate__K\x01U\x0c__defaults__K\x01\x85U\x08__call__Nu"
    stolen = f"c{module}\n{attribute}\n".encode()
    pickled = b"\x80\x02}U\x01a" + stolen + b"N" + state + b"\x86bs."
    if archive:
        zipped(tmp_path / "in.pkl", in_archive(pickled))
    else:
        (tmp_path / "in.pkl").write_bytes(pickled)
    before = {key: dict(vars(found)) for key, found in _STAND_INS.items()}
    with pytest.raises(ValueError, match=r"in\.pkl "):
        read_checkpoint(tmp_path / "in.pkl")
    assert {key: dict(vars(found)) for key, found in _STAND_INS.items()} == before


@pytest.mark.parametrize("name", LIARS)
def test_files_that_announce_what_they_have_not(name, tmp_path):
    write, message = LIARS[name]
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    write(tmp_path / name)
    for read_it in (read_checkpoint, check_checkpoint):
        with pytest.raises(ValueError, match=message) as caught:
            read_it(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


def test_names_for_terminals(tmp_path):
    """A name that would clear the screen."""
    torch.save({"model": {"a\x1b[2J\0": torch.zeros(1)}}, tmp_path / "in.pth")
    with pytest.raises(ValueError, match="with control characters"):
        read_checkpoint(tmp_path / "in.pth")
    with pytest.raises(FileNotFoundError):
        read_checkpoint("in.pth\0.txt")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ValueError, match="is no regular file"):
        read_checkpoint(tmp_path / "pipe.pth")
    with pytest.raises(ValueError, match="is a folder"):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="is no regular file"):
        read_checkpoint("/dev/zero")


RANDOM = np.random.default_rng(0)
ARRAYS = {
    "weight": RANDOM.normal(size=(2, 3, 4)).astype(np.float32),
    "columns first": np.asfortranarray(RANDOM.normal(size=(3, 5))),
    "half": RANDOM.normal(size=7).astype(np.float16),
    "one number": np.array(12, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.uint8),
    "flags": np.array([True, False]),
    "part": np.arange(12, dtype=np.int32).reshape(3, 4)[:, 1:3],
}


def written(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_in_every_protocol(protocol, tmp_path):
    content = {"model": collections.OrderedDict(ARRAYS), "__author__": "somebody", "steps": [1, 2]}
    found = read_checkpoint(written(tmp_path / "in.pkl", content, protocol))
    assert (found["__author__"], found["steps"]) == ("somebody", [1, 2])
    assert list(found["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert torch.equal(found["model"][name], torch.from_numpy(array.copy())), name
        assert found["model"][name].numpy().dtype == array.dtype
        found["model"][name].zero_()  # writable memory of its own


def test_numbers_of_numpy_and_of_other_machines(tmp_path):
    content = {"epoch": np.int64(3), "rate": np.float32(0.5), "a": np.arange(3, dtype=">f4")}
    found = read_checkpoint(written(tmp_path / "in.pkl", content))
    assert (found["epoch"], found["rate"]) == (3, 0.5)
    assert found["a"].tolist() == [0, 1, 2]


def test_pickles_of_python_2(tmp_path):
    """{"a": array([1.5, -2], float32)} as Python 2 wrote it, with its bytes as a text."""
    raw = np.array([1.5, -2], dtype="<f4").tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + raw + b"tb"
    )
    (tmp_path / "in.pkl").write_bytes(b"\x80\x02}U\x01a" + array + b"s.")
    assert read_checkpoint(tmp_path / "in.pkl")["a"].tolist() == [1.5, -2]


class Encoded:
    """Bytes through a codec of its choice."""

    def __reduce__(self):
        import _codecs

        return _codecs.encode, ("a", "rot13")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (datetime.date(2024, 1, 1), r"names datetime\.date, and only tensors, arrays"),
        (np.array([{}, None], dtype=object), "has arrays of 'O8', and only numbers"),
        (np.zeros(2, dtype=[("a", "f4")]), "has arrays of 'V4', and only numbers"),
        (np.array(["text"]), "has arrays of 'U4', and only numbers"),
        (Encoded(), "the encoding 'rot13'; only latin1"),
        (torch.zeros(1), r"names torch\._utils\._rebuild_tensor_v2, and only"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_anything_else_is_refused(content, message, tmp_path):
    path = written(tmp_path / "in.pkl", {"model": {"sem_seg_head.a": content}})
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"not a pickle", "no checkpoint of a kind that is known"),
        (b"(not a pickle", "is damaged"),
        (pickle.dumps(ARRAYS)[:-40], "is damaged"),
        (b"cnumpy.core.multiarray\nscalar\nNU\x01a\x86R.", "arrays without a type"),
        (b"](K\x01K\x02e\x94h\x000a.", "is damaged"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "holds no state dict"),
    ],
)
def test_damaged_pickles(data, message, tmp_path):
    (tmp_path / "in.pkl").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "in.pkl")


def test_a_list_that_holds_itself(tmp_path):
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="holds no state dict"):
        read_checkpoint(written(tmp_path / "in.pkl", endless))


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
    with pytest.raises(ValueError, match=r"is damaged: Bad CRC-32 for file 'in/data/0'"):
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


def test_names_and_shapes_are_listed(tmp_path, capsys):
    content = {"model": {"a.weight": torch.zeros(2, 3), "a.n": torch.tensor(1)}, "iteration": 4}
    torch.save(content | {"optimizer": {0: {"exp": torch.zeros(5).half()}}}, tmp_path / "in.pth")
    assert convert_checkpoint.main([str(tmp_path / "in.pth"), "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "model: a.weight  2 x 3  float32",
        "model: a.n  1  int64",
        "optimizer: 0: exp  5  float16",
    ]
    with pytest.raises(SystemExit, match="2"):
        convert_checkpoint.main([str(tmp_path / "in.pth")])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html></html>", "is a page of a web site and not the file"),
        (b"PK\x03\x04" + bytes(90), "is damaged: File is not a zip file"),
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
    for name in ("a.npz", "a.zip"):
        with pytest.raises(ValueError, match="is an archive without a checkpoint"):
            read_checkpoint(tmp_path / name)


def test_caffe2_and_bare_weights(tmp_path):
    """Detectron2's rules for what is not its own."""
    blobs = {"conv1_w": np.ones((2, 1)), "conv1_w_momentum": np.ones((2, 1))}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, 2))
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(blobs, 2))
    for name in ("a.pkl", "b.pkl"):
        found = read_for_detectron2(tmp_path / name)
        assert list(found["model"]) == ["conv1_w"]
        assert (found["__author__"], found["matching_heuristics"]) == ("Caffe2", True)
    torch.save({"a": torch.ones(1)}, tmp_path / "c.pth")
    assert list(read_for_detectron2(tmp_path / "c.pth")["model"]) == ["a"]


def test_weights_that_are_elsewhere(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "in.pth")
    with pytest.raises(ValueError, match="has a dict under 'state_dict' in place of a tensor"):
        read_for_detectron2(tmp_path / "in.pth")


def test_round_trip(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    base = torch.arange(6.0).reshape(2, 3)
    weights = {"a": base, "turned": base.t(), "b": torch.ones(3, dtype=torch.bfloat16)}
    write_weights(path, weights, author="me", versions={"": 1, "x": 3}, heuristics=True)
    check_checkpoint(path)
    found = read_for_detectron2(path)
    assert set(found["model"]) == set(weights)
    for name, value in weights.items():
        assert torch.equal(found["model"][name], value)
    assert (found["__author__"], found["matching_heuristics"]) == ("me", True)
    assert module_versions(found["model"]) == {"": 1, "x": 3}
    assert not module_versions(weights)


def test_files_of_others(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"a": torch.ones(2, 2)}, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")  # by what it is
    assert torch.equal(found["model"]["a"], torch.ones(2, 2))


def test_between_formats(tmp_path, capsys):
    """A run's checkpoint to safetensors and back: weights, versions, names."""
    pytest.importorskip("safetensors")
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


def test_without_the_package(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "a.safetensors"
    safetensors.save_file({"a": torch.ones(2)}, path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ValueError, match=r"a\.safetensors needs the package safetensors: pip inst"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match="pip install"):
        write_weights(path, {"a": torch.ones(2)}, author="me")


def test_plain_data():
    text = "a: [1, 2.5, true, null, text]\nb: {c: 2024-01-02}\nd: !!str 3\ne: &x {f: 1}\ng: *x\n"
    found = parse_yaml(text, "a.yaml")
    assert found["a"] == [1, 2.5, True, None, "text"]
    assert found["b"] == {"c": datetime.date(2024, 1, 2)}
    assert (found["d"], found["g"]) == ("3", {"f": 1})
    assert parse_yaml("", "a.yaml") is None


@pytest.mark.parametrize(
    ("text", "tag", "line"),
    [
        ('a: 1\nb: !!python/object/apply:os.system ["touch {}"]\n', "object/apply:os.system", 2),
        ('a: !!python/object/new:os.system ["touch {}"]\n', "object/new:os.system", 1),
        ("a: !!python/name:os.system\n", "name:os.system", 1),
        ("a: !!python/tuple [1, 2]\n", "tuple", 1),
        ('? !!python/object/apply:os.system ["touch {}"]\n: 1\n', "object/apply:os.system", 1),
        (
            '%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system ["touch {}"]\n',
            "object/apply:os.system",
            3,
        ),
        ('a: !<tag:yaml.org,2002:python/object/apply:os.system> ["touch {}"]', "object/apply", 1),
    ],
)
def test_tags(text, tag, line, tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(ValueError, match=r"a\.yaml holds a YAML tag that would run code") as caught:
        parse_yaml(text.format(marker), "a.yaml")
    assert f"!!python/{tag}" in str(caught.value)
    assert f" in line {line}. " in str(caught.value)
    assert "--allow-unsafe-config" in str(caught.value)
    assert not marker.exists()


def test_tags_that_are_allowed():
    text = "a: !!python/tuple [1, 2]\nb: !!python/object/apply:eval ['1 + 1']\n"
    assert parse_yaml(text, "a.yaml", unsafe=True) == {"a": (1, 2), "b": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a: 1\n<<: !!python/object/apply:os.system ["touch marker"]\n', "not valid YAML"),
        ("[" * 3000 + "]" * 3000, "nested too deep"),
        ("a: 2024-99-99\n", r"a\.yaml has an invalid value"),
        ("a: !mine 1\n", "!mine"),
        ("a: 1\n---\nb: 2\n", "this is not valid YAML"),
    ],
)
def test_other_tricks(text, message):
    with pytest.raises(ValueError, match=message):
        parse_yaml(text, "a.yaml")


def test_yaml_files(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: 1\n")
    assert read_yaml_text(tmp_path / "a.yaml") == "a: 1\n"
    (tmp_path / "large.yaml").write_bytes(b"a" * (2 << 20))
    with pytest.raises(ValueError, match=r"large\.yaml is larger than 1048576 bytes"):
        read_yaml_text(tmp_path / "large.yaml")
    with pytest.raises(ValueError, match="is no regular file"):
        read_yaml_text("/dev/zero")


def test_a_file_is_written_as_a_whole(tmp_path):
    path = tmp_path / "new/a.txt"
    write_whole(path, "first")

    def fail(unfinished):
        unfinished.write_text("second")
        assert unfinished.suffix != path.suffix
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_whole(path, fail)
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "first"
    write_whole(path, lambda unfinished: unfinished.write_bytes(b"third"))
    assert path.read_text() == "third"


@pytest.mark.parametrize("unsafe", [False, True])
@pytest.mark.parametrize(
    "value", ["190:20:30", "-1:30", "1:30.5", "!!int 1:30", "!!float 1:30", "1" + ":1" * 500_000]
)
def test_numbers_to_base_60(value, unsafe):
    """Nobody means them, and Python takes a time for them that grows with their square."""
    start = time.process_time()
    with pytest.raises(ValueError, match=r"a\.yaml, line 2: .* is a number to base 60"):
        parse_yaml(f"a: 1\nb: [{value}]\n", "a.yaml", unsafe=unsafe)
    assert time.process_time() - start < 10
    assert parse_yaml("a: '190:20:30'\nb: a:1:2\n", "a.yaml") == {"a": "190:20:30", "b": "a:1:2"}
