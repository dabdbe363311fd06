"""What is in a checkpoint, by its outline: tensors by their names, and what is beside them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from freqfusion.safety import Outline
from freqfusion.safety.arrays import Array, as_array
from freqfusion.safety.arrays import check_names as check_array_names
from freqfusion.safety.errors import UnreadableError
from freqfusion.safety.formats import LEGACY, TORCH
from freqfusion.safety.pickle_tree import Call, Name
from freqfusion.safety.safetensors_files import Listed
from freqfusion.safety.tensors import as_tensor
from freqfusion.safety.tensors import check_names as check_tensor_names

# Where weights are: Detectron2's, those of many others, pycls', Caffe2's.
WEIGHTS = ("model", "state_dict", "model_state", "blobs")
_LONGEST_VALUE = 80
_FEW, _DEEPEST = 8, 3


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor."""

    name: str
    shape: list[int]
    dtype: str
    bytes: int

    @property
    def count(self) -> int:
        """Number of numbers."""
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors whose names begin alike."""

    prefix: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: list[str]


@dataclass(slots=True)
class Contents:
    """What is told of a file; ``weights`` names the section that they are in, or is empty."""

    weights: str = ""
    tensors: list[Row] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    imports: list[dict[str, Any]] = field(default_factory=list)


def contents_of(outline: Outline) -> Contents:
    """Everything that the outline of a file tells."""
    found = Contents(imports=[_import(name, outline.format) for name in outline.names])
    tree = _entries(outline.tree)
    section = next((name for name in WEIGHTS if _entries(tree.get(name))), "")
    found.weights = section
    if section:
        found.tensors = list(_rows(tree[section]))
        others = {name: value for name, value in tree.items() if name != section}
    else:
        found.tensors = list(_rows(tree))
        others = {name: value for name, value in tree.items() if _row("", value) is None}
    found.beside = dict(_beside(others, ""))
    found.beside |= {name: _short(text) for name, text in outline.notes.items()}
    return found


def groups(rows: Sequence[Row], depth: int) -> list[Group]:
    """Tensors by the first ``depth`` parts of their names, in the order of the file."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        prefix = ".".join(row.name.split(".")[:depth])
        parts.setdefault(prefix, []).append(row)
    return [
        Group(
            prefix,
            len(group),
            sum(row.count for row in group),
            sum(row.bytes for row in group),
            sorted({row.dtype for row in group}),
        )
        for prefix, group in parts.items()
    ]


def matching(rows: Sequence[Row], pattern: str) -> list[Row]:
    """Those whose names fit a pattern of the shell; one without a star may lie anywhere in them."""
    whole = pattern if any(mark in pattern for mark in "*?[") else f"*{pattern}*"
    return [row for row in rows if fnmatch.fnmatchcase(row.name, whole)]


def as_json(contents: Contents, depth: int) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "weights": contents.weights,
        "tensors": len(contents.tensors),
        "parameters": sum(row.count for row in contents.tensors),
        "tensor_bytes": sum(row.bytes for row in contents.tensors),
        "groups": [asdict(group) for group in groups(contents.tensors, depth)],
        "beside": contents.beside,
        "imports": contents.imports,
    }


def _import(name: Name, kind: str) -> dict[str, Any]:
    check = check_tensor_names if kind in (TORCH, LEGACY) else check_array_names
    try:
        check([name])
    except UnreadableError:
        return {"name": _short(str(name)), "read": False}
    return {"name": str(name), "read": True}


def _entries(node: Any) -> dict[Any, Any]:
    """Of a dict, whichever kind."""
    if isinstance(node, Call):
        return node.pairs
    return node if isinstance(node, dict) else {}


def _rows(node: Any) -> Iterator[Row]:
    for name, value in _entries(node).items():
        row = _row(str(name), value)
        if row is not None:
            yield row


def _row(name: str, node: Any) -> Row | None:
    """A tensor or an array; also one that could not be read."""
    try:
        part = node if isinstance(node, Listed) else as_tensor(node) or as_array(node)
    except UnreadableError:
        return None
    if part is None or (isinstance(part, Array) and part.scalar):
        return None
    if isinstance(part, Array):
        return Row(name, list(part.shape), str(part.type), part.size)
    return Row(name, list(part.shape), str(part.dtype).removeprefix("torch."), part.size)


def _beside(entries: dict[Any, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """What small dicts of texts hold is told apart: an optimizer may lie two of them deep."""
    for name, value in entries.items():
        key, inner = f"{prefix}{_short(str(name))}", _entries(value)
        named = all(isinstance(part, str) and _row("", inner[part]) is None for part in inner)
        if inner and named and len(inner) <= _FEW and key.count(".") < _DEEPEST:
            yield from _beside(inner, f"{key}.")
        else:
            yield key, _summary(value)


def _summary(node: Any) -> str:
    """What is beside the weights, on a line."""
    row = _row("", node)
    if row is not None:
        return f"{row.dtype} tensor of {' x '.join(map(str, row.shape)) or '1'}"
    tensors = list(_tensors(node))
    entries = _entries(node)
    if entries or isinstance(node, dict):
        keys = ", ".join(str(name) for name in list(entries)[:6])
        more = ", ..." if len(entries) > 6 else ""
        held = f", {len(tensors)} tensors, {sum(tensors)} bytes" if tensors else ""
        return _short(f"{len(entries)} entries: {keys}{more}", 160) + held
    if isinstance(node, Call):
        return _short(f"made by {node.function}")
    if isinstance(node, Name):
        return _short(str(node))
    if isinstance(node, list | tuple):
        return f"{len(node)} values" if len(node) > 8 or tensors else _short(repr(list(node)))
    return _short(repr(node) if not isinstance(node, str) else node)


def _tensors(root: Any) -> Iterator[int]:
    """Bytes of all tensors in a part."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        row = _row("", node)
        if row is not None:
            yield row.bytes
        else:
            waiting.extend(_entries(node).values())
            waiting.extend(node if isinstance(node, list | tuple) else ())


def _short(text: str, longest: int = _LONGEST_VALUE) -> str:
    """Without characters that mean something to a terminal."""
    plain = "".join(mark if mark.isprintable() else "?" for mark in text)
    return plain if len(plain) <= longest else f"{plain[: longest - 3]}..."
