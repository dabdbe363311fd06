"""Files that run code where they are read carelessly, and files that announce what they have not.

Each of ``PAYLOADS`` makes a file that would create a marker; ``LIARS`` makes files that announce
more than they hold. Keys are names, values functions of a path and, for payloads, of the marker.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch


class Touch:
    """Creates a marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Evaluated(Touch):
    """The same by a function that every Python has."""

    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


WEIGHTS = {"model": {"a": torch.arange(6.0)}}


def saved(path: Path, content: object, *, legacy: bool = False) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def zipped(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.compress_type = name, method
            archive.writestr(info, data)


def entries_of(content: object) -> dict[str, bytes]:
    """What ``torch.save`` puts into an archive."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _command(marker: Path) -> str:
    return f"touch {marker}"


def in_archive(pickled: bytes) -> dict[str, bytes]:
    return {"archive/data.pkl": pickled, "archive/version": b"3\n"}


def _by_name_on_the_stack(path: Path, marker: Path) -> None:
    """``os.system`` as texts from the memo."""
    names = _text("os") + b"\x94" + _text("system") + b"\x940h\x00h\x01\x93"
    path.write_bytes(b"\x80\x04" + names + _text(_command(marker)) + b"\x85R.")


def _by_inst(path: Path, marker: Path) -> None:
    path.write_bytes(b"(" + _text(_command(marker)) + b"ios\nsystem\n.")


def _by_obj(path: Path, marker: Path) -> None:
    zipped(path, in_archive(b"\x80\x02(cos\nsystem\n" + _text(_command(marker)) + b"o."))


def _by_attributes(path: Path, marker: Path) -> None:
    """``getattr(__import__("os"), "system")(...)``."""
    module = b"cbuiltins\n__import__\n" + _text("os") + b"\x85R"
    system = b"cbuiltins\ngetattr\n" + module + _text("system") + b"\x86R"
    path.write_bytes(b"\x80\x02" + system + _text(_command(marker)) + b"\x85R.")


def _in_legacy_head(path: Path, marker: Path) -> None:
    """In what ``torch.save`` wrote about the machine."""
    saved(path, WEIGHTS, legacy=True)
    data = io.BytesIO(path.read_bytes())
    parts = [pickle.load(data) and b"" for _ in range(2)]
    assert len(parts) == 2
    head, about = path.read_bytes()[: data.tell()], pickle.dumps(Touch(marker), 2)
    pickle.load(data)
    path.write_bytes(head + about + data.read())


def _behind_a_tensor(path: Path, marker: Path) -> None:
    """Called when everything else has been read, and its result thrown away."""
    entries = entries_of(WEIGHTS)
    payload = pickle.dumps(Touch(marker), 2)[2:-1]
    zipped(path, entries | {"archive/data.pkl": entries["archive/data.pkl"][:-1] + payload + b"0."})


def _torchscript(path: Path, marker: Path) -> None:
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))


def _object_array(path: Path, marker: Path) -> None:
    np.save(path.with_suffix(".npy"), np.array([Touch(marker)], dtype=object), allow_pickle=True)
    path.with_suffix(".npy").rename(path)


def _npz(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.array([Touch(marker)], dtype=object))


def _objects_in_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"model": {"a": np.array([Touch(marker)], dtype=object)}}))


def _by_torch_load(path: Path, marker: Path) -> None:
    """``torch.load`` of a second file beside, which is allowed where all of torch is."""
    other = path.with_suffix(".other")
    other.write_bytes(pickle.dumps(Touch(marker)))
    call = b"ctorch.serialization\nload\n" + _text(str(other)) + b"\x85R"
    zipped(path, in_archive(b"\x80\x02" + call + b"."))


PAYLOADS = {
    "pickle.pkl": lambda path, marker: path.write_bytes(pickle.dumps({"model": Touch(marker)})),
    "protocol0.pth": lambda path, marker: path.write_bytes(pickle.dumps([Touch(marker)], 0)),
    "caffe2.pkl": lambda path, marker: path.write_bytes(
        pickle.dumps({"blobs": {"conv1_w": np.zeros(2), "cfg": Evaluated(marker)}}, 2)
    ),
    "archive.pth": lambda path, marker: saved(path, WEIGHTS | {"meta": Touch(marker)}),
    "evaluated.pt": lambda path, marker: saved(path, WEIGHTS | {"meta": Evaluated(marker)}),
    "legacy.pth": lambda path, marker: saved(path, WEIGHTS | {"x": Touch(marker)}, legacy=True),
    "legacy_head.pth": _in_legacy_head,
    "stack_global.pkl": _by_name_on_the_stack,
    "inst.pkl": _by_inst,
    "obj.pth": _by_obj,
    "attributes.pkl": _by_attributes,
    "behind_a_tensor.pth": _behind_a_tensor,
    "torch_load.pth": _by_torch_load,
    "objects.pkl": _objects_in_pickle,
    "object_array.pkl": _object_array,
    "objects.npz.pth": _npz,
    "torchscript.pt": _torchscript,
}


def _safetensors(entry: dict):
    def write(path: Path) -> None:
        listed = json.dumps({"a": entry}).encode()
        path.write_bytes(struct.pack("<Q", len(listed)) + listed + bytes(8))

    return write


FEW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
LIARS = {
    "zip_bomb.pth": (
        lambda path: zipped(
            path,
            entries_of(WEIGHTS) | {"archive/data/0": bytes(20 << 20)},
            zipfile.ZIP_DEFLATED,
        ),
        "torch.save compresses nothing",
    ),
    "extension.pkl": (lambda path: path.write_bytes(b"\x80\x02\x82\x01."), "is damaged"),
    "shape.pkl": (
        lambda path: path.write_bytes(
            pickle.dumps({"a": np.zeros(7, np.float32)}, 2).replace(
                b"K\x07\x85", b"J\xff\xff\xff\x7f\x85"
            )
        ),
        "is damaged: cannot reshape",
    ),
    "list.safetensors": (
        lambda path: path.write_bytes(struct.pack("<Q", 1 << 50) + b"{}"),
        "no checkpoint of a kind that is known",
    ),
    "outside.safetensors": (_safetensors(FEW | {"data_offsets": [8, 16]}), "is damaged"),
}
