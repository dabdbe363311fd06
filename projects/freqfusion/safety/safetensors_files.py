"""Files of safetensors: a list of tensors as JSON, then their numbers.

The list is read and checked here, so that the package is needed for nothing but the numbers.
"""

from __future__ import annotations

import json
import math
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from freqfusion.safety.errors import DamagedError, RefusedError, UnreadableError

INSTALL = "pip install 'freqfusion[safetensors]'"
_LONGEST_LIST = 100 << 20
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_METADATA, _VERSIONS = "__metadata__", "module_versions"
_AUTHOR, _HEURISTICS = "author", "matching_heuristics"


@dataclass(frozen=True, slots=True)
class Listed:
    """A tensor whose numbers have not been read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    size: int  # bytes

    @property
    def count(self) -> int:
        """Number of numbers."""
        return math.prod(self.shape)


def is_safetensors(file: BinaryIO) -> bool:
    """Whether a file begins like one."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size


def read_list(file: BinaryIO) -> tuple[dict[str, Listed], dict[str, str]]:
    """The tensors of a file by their names, and what else is noted in it.

    Raises:
        RefusedError: for a list that is far too long.
        DamagedError: if the list is none, or does not fit the numbers.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_LIST:
        raise RefusedError(f"has a list of tensors of {length} bytes; at most {_LONGEST_LIST}")
    if length > size - 8:
        raise DamagedError("is cut off within its list of tensors")
    try:
        content = json.loads(file.read(length), object_pairs_hook=_once)
        notes = content.pop(_METADATA, {})
        if not all(isinstance(text, str) for pair in notes.items() for text in pair):
            raise ValueError("its notes are no texts")
        tensors = {name: _listed(name, entry) for name, entry in content.items()}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedError(f"has a damaged list of tensors: {error}") from error
    end = 0
    for begin, stop in sorted(tuple(entry["data_offsets"]) for entry in content.values()):
        if begin != end:
            raise DamagedError("has a damaged list of tensors: some lie over others, or apart")
        end = stop
    if end != size - 8 - length:
        raise DamagedError(
            f"is damaged: its tensors have {end} bytes, and {size - 8 - length} are there"
        )
    return tensors, notes


def read_tensors(path: Path, notes: Mapping[str, str]) -> dict[str, Any]:
    """What Detectron2's checkpointer takes, with the versions of modules where ``write`` put them.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UnreadableError(f"needs the package safetensors: {INSTALL}") from error
    weights = _with_versions(load_file(path), notes.get(_VERSIONS))
    guess = notes.get(_HEURISTICS) == "True"
    return {"model": weights, "__author__": notes.get(_AUTHOR, ""), _HEURISTICS: guess}


def write_safetensors(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    *,
    author: str,
    versions: Mapping[str, int] | None = None,
    heuristics: bool = False,
) -> None:
    """Write weights; tensors that share memory are written one by one.

    Args:
        path: The file.
        weights: By their names.
        author: Who wrote it.
        versions: Of modules, by their names; a module may treat weights without one as old.
        heuristics: Whether Detectron2 is to guess which of its names are meant.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ValueError(f"{path} needs the package safetensors: {INSTALL}") from error
    notes = {"format": "pt", _AUTHOR: author, _HEURISTICS: str(heuristics)}
    if versions:
        notes[_VERSIONS] = json.dumps(dict(versions))
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    save_file(own, path, metadata=notes)


def _with_versions(weights: dict[str, Any], text: str | None) -> dict[str, Any]:
    if not text:
        return weights
    ordered = OrderedDict(weights)
    try:
        versions = {str(name): {"version": int(n)} for name, n in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"has damaged versions of modules: {error}") from error
    vars(ordered)["_metadata"] = versions
    return ordered


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _listed(name: str, entry: Any) -> Listed:
    kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    sizes = (begin, end, *shape)
    if kind not in _DTYPES:
        raise ValueError(f"{name!r} is of the type {kind!r}, which is not known")
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"{name!r} has a size that is none")
    listed = Listed(_DTYPES[kind], tuple(shape), end - begin)
    if listed.count * listed.dtype.itemsize != end - begin:
        raise ValueError(f"{name!r} does not fit its {end - begin} bytes")
    return listed
