"""Read a checkpoint without running anything that it says."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from freqfusion.safety import arrays, safetensors_files, tensors
from freqfusion.safety.archives import check_contents, read_entries
from freqfusion.safety.errors import DamagedError, RefusedError, UnreadableError
from freqfusion.safety.formats import LEGACY, PICKLE, SAFETENSORS, TORCH, format_of, open_regular
from freqfusion.safety.pickle_machine import Machine
from freqfusion.safety.pickle_tree import Name
from freqfusion.safety.saved_arrays import numpy_parts, without_numpy

_TRUSTED = (
    ". Where you trust the file, write its weights alone, in a Python of your own: torch.save("
    "{{'model': {}['model']}}, 'weights.pth'), or 'state_dict' in place of 'model'"
)
_LOAD = {
    True: "torch.load(FILE, weights_only=False)",
    False: "pickle.load(open(FILE, 'rb'), encoding='latin1')",
}
_LEGACY_PARTS = 5
# What PyTorch raises for files that are not what they should be.
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(slots=True)
class Outline:
    """What is known of a checkpoint without its numbers.

    ``tree`` has tensors and arrays that have not been read; ``problem`` says why it is not read.
    """

    format: str = ""
    tree: Any = None
    names: list[Name] = field(default_factory=list)
    notes: Mapping[str, str] = field(default_factory=dict)
    problem: UnreadableError | None = None


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file holds, on the CPU: weights under ``"model"`` where Detectron2 or safetensors do.

    Read are files of ``torch.save``, pickles of arrays as Detectron2 and Caffe2 have them, and
    safetensors, by what they are and not by their names; arrays become tensors. Of what
    ``torch.save`` writes: tensors, numbers, texts, and dicts, lists, tuples and sets of them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another kind, if something in it could run code, if it would take
            far more memory than it has bytes, or if it is cut off or damaged.
    """
    path = Path(path)
    with open_regular(path) as file, _named(path):
        outline = _outlined(file, path)
        if outline.problem:
            raise outline.problem
        content = _read(file, path, outline)
        if not isinstance(content, dict) or not content:
            raise DamagedError("holds no state dict")
        _check_tensor_names(content)
        return content


def check_checkpoint(path: str | os.PathLike[str]) -> None:
    """Raise what ``read_checkpoint`` would, as far as it can be seen without reading numbers."""
    path = Path(path)
    with open_regular(path) as file, _named(path):
        outline = _outlined(file, path)
        if outline.problem:
            raise outline.problem


def outline_checkpoint(path: str | os.PathLike[str]) -> Outline:
    """What is in a file, also in one that is not read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no file.
    """
    path = Path(path)
    with open_regular(path) as file:
        return _outlined(file, path)


def _outlined(file: BinaryIO, path: Path) -> Outline:
    outline = Outline()
    try:
        outline.format = format_of(file, path)
        _OUTLINES[outline.format](file, outline)
    except UnreadableError as error:
        outline.problem = error
        # What could run code is worse than what is broken, and may be why it is.
        saved = outline.format in (TORCH, LEGACY)
        try:
            (tensors if saved else arrays).check_names(outline.names)
        except RefusedError as refused:
            outline.problem = RefusedError(f"{refused}{_TRUSTED.format(_LOAD[saved])}")
    return outline


def _outline_archive(file: BinaryIO, outline: Outline) -> None:
    entries = read_entries(file)
    start, size, _ = entries["data.pkl"]
    file.seek(start)
    outline.tree = _follow(file, start + size, outline)
    tensors.check_names(outline.names)
    prefix = "data/"
    storages = {
        name.removeprefix(prefix): entry.size
        for name, entry in entries.items()
        if name.startswith(prefix)
    }
    tensors.check_tree(outline.tree, storages)


def _outline_legacy(file: BinaryIO, outline: Outline) -> None:
    """A number, a version, the machine, the content, the order of storages; then these."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    parts = [_follow(file, end, outline) for _ in range(_LEGACY_PARTS)]
    outline.tree, keys = parts[3:]
    tensors.check_names(outline.names)
    wanted = tensors.check_tree(outline.tree, None)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(wanted):
        raise DamagedError("is damaged: its list of storages does not fit its tensors")
    there = end - file.tell()
    total = sum(wanted.values()) + 8 * len(wanted)
    if total > there:
        raise DamagedError(f"is cut off: its tensors need {total} bytes, and {there} are there")


def _outline_pickle(file: BinaryIO, outline: Outline) -> None:
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    outline.tree = _follow(file, end, outline)
    arrays.check_names(outline.names)
    arrays.check_tree(outline.tree)


def _outline_safetensors(file: BinaryIO, outline: Outline) -> None:
    listed, outline.notes = safetensors_files.read_list(file)
    outline.tree = {"model": listed}


_OUTLINES = {
    TORCH: _outline_archive,
    LEGACY: _outline_legacy,
    PICKLE: _outline_pickle,
    SAFETENSORS: _outline_safetensors,
}


def _follow(file: BinaryIO, end: int, outline: Outline) -> Any:
    machine = Machine(file, end)
    try:
        return machine.run()
    finally:
        outline.names += [name for name in machine.names if name not in outline.names]


def _read(file: BinaryIO, path: Path, outline: Outline) -> Any:
    file.seek(0)
    if outline.format == SAFETENSORS:
        return safetensors_files.read_tensors(path, outline.notes)
    if outline.format == PICKLE:
        return arrays.evaluate(outline.tree, file, {})
    if outline.format == TORCH:
        check_contents(file, read_entries(file))
        file.seek(0)
    try:
        with torch.serialization.safe_globals(numpy_parts(outline.names)):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedError(f"is damaged, or of a newer PyTorch: {_reason(error)}") from error
    except _DAMAGE as error:
        raise DamagedError(f"is damaged: {_reason(error)}") from error
    return without_numpy(content) if arrays.DTYPE in outline.names else content


def _check_tensor_names(content: Mapping[Any, Any]) -> None:
    """Names go to logs and files; they have no characters that mean something there."""
    for part in (content, *content.values()):
        for name in part if isinstance(part, dict) else ():
            if isinstance(name, str) and not name.isprintable():
                raise RefusedError(f"has the name {name[:80]!r}, with characters that none has")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the name of the file before what is wrong with it."""
    try:
        yield
    except UnreadableError as error:
        raise type(error)(f"{path} {error}") from error


def _reason(error: BaseException) -> str:
    """The last sentence of PyTorch's advice, which is what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "WeightsUnpickler error" in line), "")
    text = told.partition("error:")[2].strip() or (lines[0] if lines else type(error).__name__)
    return text if len(text) <= 200 else f"{text[:197]}..."
