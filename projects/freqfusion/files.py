"""Read checkpoints and YAML files of others without running their code; write files as a whole.

Needs torch and numpy; PyYAML and safetensors where files of theirs are read.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

AUTHOR, HEURISTICS = "__author__", "matching_heuristics"
VERSIONS = "module_versions"
_NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
# The number that torch.save wrote first before version 1.6, as a pickle of its own.
_LEGACY_START = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
INSTALL = "pip install 'freqfusion[safetensors]'"
_CONVERT = "python -m freqfusion.tools.convert_checkpoint brings checkpoints from elsewhere here"
_MOST_YAML_BYTES = 1 << 20


class _RefusedError(ValueError):
    """Hold the rest of a sentence that begins with the name of a file."""


def write_whole(path: Path, content: str | Callable[[Path], object]) -> None:
    """Write a file, and the folder that it lies in; an interruption leaves the earlier file.

    Args:
        path: The file.
        content: A text, or a function that writes to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the file's suffix, so that no unfinished file is taken for a finished one.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if isinstance(content, str):
            unfinished.write_text(content, encoding="utf-8")
        else:
            content(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def add_unsafe_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-unsafe-config`` to the options of a program that reads configurations."""
    parser.add_argument(
        "--allow-unsafe-config",
        action="store_true",
        help="let !!python tags in the configuration run code; only for files that you trust",
    )


def read_checkpoint(path: str | os.PathLike[str], *, mmap: bool = False) -> dict[str, Any]:
    """Return what a file holds, on the CPU: safetensors' weights under ``"model"``.

    Reads files of ``torch.save`` by ``torch.load(weights_only=True)``, pickles of arrays as
    Detectron2 and Caffe2 write them, and safetensors, by what they are and not by their names.
    NumPy's arrays become tensors, its numbers plain numbers.

    Args:
        path: The file.
        mmap: Leave the numbers of an archive of ``torch.save`` in the file, and their checksums
            unread.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or of another kind, or names what could run code.
    """
    path = Path(path)
    with _open(path) as file:
        try:
            content = _without_numpy(_read(file, path, mmap), {})
            if not isinstance(content, dict) or not content:
                raise _RefusedError("holds no state dict")
            _check_names(content)
        except _RefusedError as error:
            raise ValueError(f"{path} {error}") from error
        except Exception as error:  # readers raise all kinds for damaged files
            raise ValueError(f"{path} {_reason(error)}") from error
    return content


def check_checkpoint(path: str | os.PathLike[str]) -> None:
    """Raise what ``read_checkpoint`` would, but for numbers that are damaged."""
    read_checkpoint(path, mmap=True)


def read_for_detectron2(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what Detectron2's checkpointer loads: weights under ``"model"``, and what is beside.

    As there, ``*.pkl`` is Detectron2's or else Caffe2's, and anything else without ``"model"`` is
    the weights themselves. Raises what ``read_checkpoint`` does.
    """
    path = Path(path)
    content = read_checkpoint(path)
    if path.suffix == ".pkl" and not {"model", AUTHOR} <= set(content):
        if "model" not in content:
            content = _from_caffe2(content)
    elif "model" not in content:
        content = {"model": content}
    weights = content["model"]
    if not isinstance(weights, dict) or not weights:
        raise ValueError(f"{path} has no weights under 'model'; {_CONVERT}")
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{path} has a {type(value).__name__} under {name!r} in place of a tensor;"
                f" {_CONVERT}"
            )
    return content


def module_versions(weights: Mapping[str, Any]) -> dict[str, int]:
    """Return the versions that a state dict has of its modules, by their names."""
    noted = getattr(weights, "_metadata", None)
    return {
        str(name): entry["version"]
        for name, entry in (noted.items() if isinstance(noted, dict) else ())
        if isinstance(entry, dict) and isinstance(entry.get("version"), int)
    }


def with_versions(weights: Mapping[str, Any], versions: Mapping[str, int]) -> dict[str, Any]:
    """Return a state dict with the versions of modules where ``load_state_dict`` finds them."""
    ordered = OrderedDict(weights)
    if versions:
        noted = {str(name): {"version": int(number)} for name, number in versions.items()}
        vars(ordered)["_metadata"] = noted
    return ordered


def read_yaml_text(path: str | os.PathLike[str]) -> str:
    """Return the text of a YAML file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no regular file, larger than 1 MiB, or no text.
    """
    with _open(Path(path)) as file:
        raw = file.read(_MOST_YAML_BYTES + 1)
    if len(raw) > _MOST_YAML_BYTES:
        raise ValueError(
            f"{path} is larger than {_MOST_YAML_BYTES} bytes, which no YAML file here is"
        )
    return raw.decode("utf-8")


def parse_yaml(
    text: str, name: str, *, unsafe: bool = False, look: Callable[[Any], None] | None = None
) -> Any:
    """Return the content of a YAML text; None where it is empty.

    Args:
        text: Of a file.
        name: Of that file, for messages.
        unsafe: Let tags run code.
        look: Given the root node, whose parts know their lines, before anything is made of it.

    Raises:
        ValueError: with the line, for text that is no YAML, for tags and for numbers to base 60.
    """
    import yaml

    loader = None
    try:
        loader = (yaml.UnsafeLoader if unsafe else yaml.SafeLoader)(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_base_60(node, name)
        if look is not None:
            look(node)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "somewhere" if mark is None else f"line {mark.line + 1}"
        reason = getattr(error, "problem", None) or str(error)
        if "constructor for the tag" in reason:
            tag = reason.rpartition(" ")[2].strip("'").replace("tag:yaml.org,2002:", "!!")
            raise ValueError(
                f"{name} holds a YAML tag that would run code, which a configuration must not:"
                f" {tag} in {line}. Write the value itself in its place; only where you trust the"
                " file, --allow-unsafe-config lets it run"
            ) from error
        raise ValueError(f"{name}, {line}: this is not valid YAML: {reason}") from error
    except RecursionError as error:
        raise ValueError(f"{name} is nested too deep") from error
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name} has an invalid value: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_base_60(root: Any, name: str) -> None:
    """Raise ValueError for 190:20:30, 685230 in YAML 1.1: a long one takes Python forever."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if not isinstance(node.value, str):
            waiting += [p for one in node.value for p in (one if type(one) is tuple else (one,))]
        elif ":" in node.value and node.tag.endswith((":int", ":float")):
            raise ValueError(
                f"{name}, line {node.start_mark.line + 1}: {node.value[:40]} is a number to base 60"
                " in YAML: write the plain number, or quotes around a text"
            )


def _open(path: Path) -> BinaryIO:
    """Open a file to read it; a pipe, which may never end, is refused."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not a file")
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}")
    return path.open("rb")


class _Type:
    """Stand in for ``numpy.dtype``: numbers only, in any order of their bytes."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind not in _NUMBERS:
            raise _RefusedError(f"has arrays of {kind!r:.40}, and only numbers are read")
        self.type = np.dtype(kind)

    def __setstate__(self, state: Any) -> None:
        self.type = self.type.newbyteorder(state[1])


class _Array:
    """Stand in for an array that ``_reconstruct`` makes, and whose numbers come later."""

    def __init__(self, *_: Any) -> None:
        self.tensor: torch.Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, data = state
        self.tensor = _from_buffer(data, kind, shape, "F" if columns_first else "C")


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> torch.Tensor:
    """Return the tensor of an array, given its bytes, or Python 2's text for them."""
    if not isinstance(kind, _Type):
        raise _RefusedError("has arrays without a type of numbers")
    raw = data.encode("latin1") if isinstance(data, str) else data
    values = np.frombuffer(raw, kind.type).reshape(shape, order=order)
    return torch.from_numpy(np.array(values, kind.type.newbyteorder("="), order="C"))


def _scalar(kind: Any, data: Any) -> Any:
    """Return one of NumPy's numbers, given its type and its bytes, as a plain number."""
    return _from_buffer(data, kind, (), "C").item()


def _encode(text: str = "", encoding: str = "latin1") -> bytes:
    """Return bytes that are written as a text."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"has bytes in the encoding {encoding!r}; only latin1 is read")
    return str.encode(text, "latin1")


# All that a file may name besides what torch.load allows, and what it gets for it.
_STAND_INS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "builtins.bytes": _encode,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray._reconstruct"] = _Array
    _STAND_INS[f"{_core}.multiarray.scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric._frombuffer"] = _from_buffer


class _ArrayUnpickler(pickle._Unpickler):
    """Read a pickle of arrays; in Python, since C's takes any memory that the file announces."""

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}".replace("__builtin__.", "builtins.")
        if full_name not in _STAND_INS:
            raise _RefusedError(_refusal(full_name))
        found = _STAND_INS[full_name]
        # A pickle may set attributes of a function, which would outlive it.
        return found if isinstance(found, type) else partial(found)


def _read(file: BinaryIO, path: Path, mmap: bool) -> Any:
    start = file.read(512)
    file.seek(0)
    if not start:
        raise _RefusedError("is empty")
    # The first byte is a length, and may be that of any other format.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        return _read_safetensors(path)
    if start.startswith(b"version https://git-lfs"):
        raise _RefusedError("is a pointer of Git LFS, not the file; get it by git lfs pull")
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<"):
        raise _RefusedError("is a page of a web site and not the file; download it again")
    archive = start.startswith(b"PK")
    if archive:
        _check_archive(file, checksums=not mmap)
        file.seek(0)
    if archive or _LEGACY_START in start[:32]:
        stand_ins: list[Any] = [(value, name) for name, value in _STAND_INS.items()]
        with torch.serialization.safe_globals(stand_ins):
            mapped = archive and mmap
            source = path if mapped else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    if start[:1] in (b"\x80", b"(", b"}", b"]", b"l", b"c", b"d"):
        return _ArrayUnpickler(file, encoding="latin1").load()
    raise _RefusedError(
        "is no checkpoint of a kind that is known; read are files of torch.save (.pth, .pt),"
        " pickles of arrays as Detectron2 and Caffe2 have them (.pkl), and safetensors"
    )


def _check_archive(file: BinaryIO, *, checksums: bool) -> None:
    """Refuse an archive of another program, and one that holds more than its bytes."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.rpartition("/")[2] for entry in entries}
        if "constants.pkl" in names:
            raise _RefusedError(
                "is a TorchScript program, which holds code; where it is trusted, write its weights"
                " by torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
            )
        if "data.pkl" not in names:
            raise _RefusedError("is an archive without a checkpoint; unpack it")
        if sum(entry.file_size for entry in entries) > file.seek(0, os.SEEK_END):
            raise _RefusedError("is an archive that unfolds; torch.save compresses nothing")
        # Read to its end, an entry is held to its checksum; torch.save may leave that out.
        for entry in entries if checksums else ():
            if entry.CRC:
                with archive.open(entry) as content:
                    while content.read(1 << 20):
                        pass


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import safe_open
        from safetensors.torch import load_file
    except ImportError as error:
        raise _RefusedError(f"needs the package safetensors: {INSTALL}") from error
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
    weights = load_file(path)
    if VERSIONS in notes:
        weights = with_versions(weights, json.loads(notes[VERSIONS]))
    guess = notes.get(HEURISTICS) == "True"
    return {"model": weights, AUTHOR: notes.get("author", ""), HEURISTICS: guess}


def _without_numpy(node: Any, done: dict[int, Any]) -> Any:
    """Return tensors in place of arrays; dicts and lists stay the same ones."""
    if isinstance(node, _Array):
        return node.tensor
    if id(node) in done:
        return done[id(node)]
    if isinstance(node, dict | list):
        done[id(node)] = node
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            node[key] = _without_numpy(node[key], done)
    elif type(node) is tuple:
        done[id(node)] = tuple(_without_numpy(part, done) for part in node)
        return done[id(node)]
    return node


def _check_names(content: Mapping[Any, Any]) -> None:
    """Refuse names with control characters, since they go to terminals and files."""
    for part in (content, *content.values()):
        for name in part if isinstance(part, dict) else ():
            if isinstance(name, str) and not name.isprintable():
                raise _RefusedError(f"has the name {name[:80]!r}, with control characters")


def _reason(error: BaseException) -> str:
    """Return what an error of a reader tells, without the advice that torch puts before it."""
    words = str(error).rpartition("WeightsUnpickler error:")[2].split()
    text = " ".join(words) or type(error).__name__
    refused = re.search(r"GLOBAL (\S+) ", text)
    return _refusal(refused[1]) if refused else f"is damaged: {text:.200}"


def _refusal(name: str) -> str:
    return (
        f"names {ascii(name)[1:-1]:.80}, and only tensors, arrays and plain data are read, since"
        " anything else could run code. Where you trust the file, load it in a Python of your own"
        " and write its weights alone: torch.save({'model': WEIGHTS}, 'weights.pth')"
    )


def _from_caffe2(content: dict[str, Any]) -> dict[str, Any]:
    blobs = content["blobs"] if isinstance(content.get("blobs"), dict) else content
    weights = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, AUTHOR: "Caffe2", HEURISTICS: True}
