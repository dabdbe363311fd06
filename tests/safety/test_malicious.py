"""Files of an attacker: none is run, each is refused with a sentence, in little time and memory."""

import json
import pickle
import resource
import time

import pytest
import torch
from malicious import BOMBS, PAYLOADS, WEIGHTS, entries_of, zipped

from freqfusion.safety import check_checkpoint, outline_checkpoint, read_checkpoint
from freqfusion.tools import convert_checkpoint, inspect_checkpoint

SECONDS, MEBIBYTES = 5.0, 300


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


@pytest.fixture(params=PAYLOADS)
def payload(request, tmp_path, marker):
    path = tmp_path / request.param
    PAYLOADS[request.param](path, marker)
    yield path
    assert not marker.exists()


def test_there_are_enough():
    assert len(PAYLOADS) >= 12
    assert len(BOMBS) >= 12


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
    for read in (read_checkpoint, check_checkpoint):
        with pytest.raises(ValueError, match=f"^{payload} ") as caught:
            read(payload)
        assert len(str(caught.value)) < 600


def test_payloads_are_not_converted(payload, tmp_path, capsys):
    for more in ((), ("--keep-names",)):
        assert convert_checkpoint.main([str(payload), str(tmp_path / "out.pth"), *more]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"convert_checkpoint: {payload} ")
        assert "Traceback" not in told
    assert not (tmp_path / "out.pth").exists()


def test_payloads_are_told_of(payload, capsys):
    assert inspect_checkpoint.main([str(payload), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["problem"]
    assert inspect_checkpoint.main([str(payload)]) == 1
    assert "It is not read: it " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("pickle.pkl", "posix.system"),
        ("caffe2.pkl", "builtins.eval"),
        ("protocol0.pth", "posix.system"),
        ("legacy_head.pth", "posix.system"),
        ("stack_global.pkl", "os.system"),
        ("inst.pkl", "os.system"),
        ("obj.pth", "os.system"),
        ("attributes.pkl", "builtins.getattr"),
        ("torch_load.pth", "torch.serialization.load"),
        ("objects.pkl", "posix.system"),
    ],
)
def test_what_would_be_run_is_named(name, harm, tmp_path, marker):
    PAYLOADS[name](tmp_path / name, marker)
    outline = outline_checkpoint(tmp_path / name)
    assert harm in [str(found).replace("__builtin__", "builtins") for found in outline.names]
    assert "could run code. Where you trust the file" in str(outline.problem)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name, tmp_path):
    """In little time, and in an address space that is hardly larger than before."""
    write, message = BOMBS[name]
    path = tmp_path / name
    write(path)
    assert path.stat().st_size < 1 << 20
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (MEBIBYTES << 20), limits[1]))
    start = time.process_time()
    try:
        for read in (read_checkpoint, check_checkpoint):
            with pytest.raises(ValueError, match=message) as caught:
                read(path)
            assert str(caught.value).startswith(str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("hooks", [b"}K\x01U\x01as", b"ccollections\nOrderedDict\n)RK\x01U\x01as"])
def test_tensors_that_hold_more(hooks, tmp_path):
    """Hooks, which PyTorch would set, are none of the numbers."""
    entries = entries_of(WEIGHTS)
    pickled = entries["archive/data.pkl"]
    at = pickled.index(b"\x89c") + 1  # behind requires_grad
    end = pickled.index(b")R", at) + 2
    assert (
        pickled[at:end].startswith(b"ccollections\nOrderedDict\n") or pickled[at : at + 1] == b"h"
    )
    entries["archive/data.pkl"] = pickled[:at] + hooks + pickled[end:]
    zipped(tmp_path / "in.pth", entries)
    with pytest.raises(ValueError, match="has a tensor with more than numbers"):
        check_checkpoint(tmp_path / "in.pth")


def test_names_for_terminals(tmp_path):
    """A name that would clear the screen."""
    torch.save({"model": {"a\x1b[2J\0": torch.zeros(1)}}, tmp_path / "in.pth")
    with pytest.raises(ValueError, match="with characters that none has"):
        read_checkpoint(tmp_path / "in.pth")
    with pytest.raises(ValueError, match="has a NUL in its name"):
        read_checkpoint("in.pth\0.txt")


def test_what_is_no_file(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ValueError, match="is no regular file"):
        read_checkpoint(tmp_path / "pipe.pth")
    with pytest.raises(ValueError, match="is a folder; give one file"):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="is no regular file"):
        read_checkpoint("/dev/zero")
