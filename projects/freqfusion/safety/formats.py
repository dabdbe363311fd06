"""What kind of file one is, by its first bytes, and how the others become one that is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from freqfusion.safety.archives import list_names
from freqfusion.safety.errors import DamagedError, RefusedError
from freqfusion.safety.safetensors_files import is_safetensors

TORCH, LEGACY, PICKLE, SAFETENSORS = (
    "torch.save",
    "torch.save, before 1.6",
    "pickle",
    "safetensors",
)
# The number that torch.save wrote first, as a pickle of its own.
_LEGACY_START = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_SAVE = "torch.save({name: torch.from_numpy(value) for name, value in ... .items()}, 'weights.pth')"
_STARTS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file; get it by git lfs pull"),
    (b"<", "is a page of a web site and not the file; download it again, by its direct address"),
    (b"\x89HDF", f"is HDF5, as Keras writes it; read it with h5py and write {_SAVE}"),
    (b"\x93NUMPY", f"is one array of numpy; read it with numpy.load and write {_SAVE}"),
    (b"GGUF", "is GGUF; read it with the package gguf and write its tensors by torch.save"),
    (b"\x1f\x8b", "is compressed; unpack it with gunzip"),
    (b"\xfd7zXZ", "is compressed; unpack it with unxz"),
    (b"BZh", "is compressed; unpack it with bunzip2"),
    (b"\x28\xb5\x2f\xfd", "is compressed; unpack it with unzstd"),
    (b"7z\xbc\xaf", "is compressed; unpack it with 7z x"),
    (b"Rar!", "is compressed; unpack it with unrar"),
)  # fmt: skip
_SUFFIXES = {
    ".onnx": "is ONNX, a graph; take the weights of the model that it was exported from",
    ".h5": "is HDF5, as Keras writes it; read it with h5py",
    ".msgpack": "is of Flax; read it with flax.serialization.msgpack_restore",
    ".index": "is of TensorFlow; read it with tf.train.load_checkpoint",
}
_KNOWN = (
    "read are files of torch.save (.pth, .pt), pickles of arrays as Detectron2 and Caffe2 have them"
    " (.pkl), and safetensors"
)


def format_of(file: BinaryIO, path: Path) -> str:
    """A name of the four formats that are read.

    Raises:
        RefusedError: for any other, with the way to convert it.
        DamagedError: for an empty file.
    """
    file.seek(0)
    start = file.read(512)
    if not start:
        raise DamagedError("is empty")
    # Its first byte is a length, and may be any other format's.
    if is_safetensors(file):
        return SAFETENSORS
    for beginning, sentence in _STARTS:
        if start.lstrip(b"\xef\xbb\xbf \r\n\t" if beginning == b"<" else b"").startswith(beginning):
            raise RefusedError(sentence)
    if start.startswith(b"PK"):
        return _archive(file)
    if start[257:262] == b"ustar":
        raise RefusedError(
            "is a tar archive; unpack it, or if PyTorch before 0.4 wrote it, load and save it again"
            " with PyTorch 1"
        )
    if _LEGACY_START in start[:32]:
        return LEGACY
    if path.suffix in _SUFFIXES:
        raise RefusedError(f"{_SUFFIXES[path.suffix]}; {_KNOWN}")
    # Without a mark at the beginning: the oldest protocols have none.
    if start[:1] == b"\x80" or start[:1] in b"(}]lcd":
        return PICKLE
    raise RefusedError(f"is no checkpoint of a kind that is known; {_KNOWN}")


def _archive(file: BinaryIO) -> str:
    names = [name.partition("/")[2] for name in list_names(file)]
    bare = list_names(file)
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise RefusedError(
            "is a TorchScript program, which holds code; where it is trusted, write its weights by"
            " torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if "data.pkl" in names:
        return TORCH
    if any(name.endswith(".npy") for name in bare):
        raise RefusedError(
            f"is an archive of numpy; read it with numpy.load(FILE, allow_pickle=False) and write"
            f" {_SAVE}"
        )
    if not bare:
        raise DamagedError("is an archive that is cut off or damaged; download or copy it again")
    raise RefusedError(f"is an archive without a checkpoint; unpack it; {_KNOWN}")


def open_regular(path: Path) -> BinaryIO:
    """Open a file; what is no file, such as a pipe that never ends, is refused.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is no file.
    """
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} has a NUL in its name, which no file has")
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; give one file. Folders of torch.distributed.checkpoint become one"
            " by python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} is not a file")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file")
    return open(path, "rb", opener=_without_waiting)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
