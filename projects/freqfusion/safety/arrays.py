"""Arrays of numpy in a pickle's tree: what they are, and their numbers as tensors.

Known is how numpy writes arrays in every protocol, under Python 2 too. Nothing of numpy's own
rebuilding is reached.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch

from freqfusion.safety.errors import DamagedError, RefusedError
from freqfusion.safety.pickle_tree import Call, Data, Name, Outside, children

# Kind and bytes of the numbers that tensors have, as numpy writes them.
KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
# The mark of a byte order that is not the machine's.
_FOREIGN = ">" if sys.byteorder == "little" else "<"
_MOST_DIMENSIONS = 32

NDARRAY, DTYPE = Name("numpy", "ndarray"), Name("numpy", "dtype")
ENCODE = Name("_codecs", "encode")
_NO_BYTES = Name("__builtin__", "bytes")
RECONSTRUCT, SCALAR, _FROM_BUFFER = (
    {Name(f"numpy.{core}.{module}", name) for core in ("core", "_core")}
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
)
ORDERED = Name("collections", "OrderedDict")
# All that a pickle of arrays may name.
NAMES = frozenset({NDARRAY, DTYPE, ENCODE, _NO_BYTES, ORDERED}).union(
    RECONSTRUCT, SCALAR, _FROM_BUFFER
)


@dataclass(frozen=True, slots=True)
class Array:
    """An array, or with ``scalar`` a number of numpy's, whose data has not been read."""

    type: np.dtype[Any]
    swapped: bool
    shape: tuple[int, ...]
    order: str
    data: Any
    scalar: bool = False

    @property
    def count(self) -> int:
        """Number of numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.count * self.type.itemsize


def as_array(node: Any) -> Array | None:
    """The array that a call would rebuild; nothing if it is no array.

    Raises:
        RefusedError: for arrays of anything but numbers, and shapes that do not fit the data.
        DamagedError: for parts that are missing.
    """
    if not isinstance(node, Call):
        return None
    if node.function in RECONSTRUCT:
        _, shape, kind, columns_first, data = _parts(node.state, 5)
        return _array(kind, shape, "F" if columns_first else "C", data)
    if node.function in _FROM_BUFFER:
        data, kind, shape, order = _parts(node.arguments, 4)
        return _array(kind, shape, order, data)
    if node.function in SCALAR:
        kind, data = _parts(node.arguments, 2)
        return _array(kind, (), "C", data, scalar=True)
    return None


def read_array(array: Array, file: BinaryIO) -> Any:
    """Its numbers as a tensor with memory of its own, or as a plain number."""
    raw = bytes_of(array.data, file)
    if len(raw) != array.size:
        raise DamagedError(_unfitting(array, len(raw)))
    values = np.frombuffer(raw, array.type.newbyteorder() if array.swapped else array.type)
    values = values.astype(array.type)  # a copy that may be written to, in the machine's order
    if array.scalar:
        return values.item()
    shaped = values.reshape(array.shape, order="F" if array.order == "F" else "C")
    return torch.from_numpy(np.ascontiguousarray(shaped).reshape(array.shape))


def bytes_of(node: Any, file: BinaryIO) -> bytes:
    """What stands for bytes in a tree; a text is one of Python 2's, or one to be encoded."""
    if isinstance(node, Data):
        file.seek(node.start)
        raw = file.read(node.length)
        return str(raw, "utf-8", "surrogatepass").encode("latin1") if node.text else raw
    if isinstance(node, str):
        return node.encode("latin1")
    if isinstance(node, bytes | bytearray):
        return bytes(node)
    if isinstance(node, Call) and node.function == _NO_BYTES and node.arguments == ():
        return b""
    if isinstance(node, Call) and node.function == ENCODE:
        text, *encoding = _parts(node.arguments, 1, 2)
        # Others could run codecs.
        if encoding not in ([], ["latin1"], ["latin-1"]):
            raise RefusedError(f"has bytes in the encoding {encoding[0]!r}; only latin1 is read")
        if isinstance(text, str | Data):
            return bytes_of(text, file)
    raise DamagedError("is no pickled checkpoint, or is damaged: bytes are missing")


def check_names(names: Iterable[Name]) -> None:
    """RefusedError for the first name that no pickle of arrays needs."""
    for name in names:
        if name not in NAMES:
            raise RefusedError(
                f"holds {name}, and only arrays of numbers, lists, dicts, numbers and texts are"
                " read, since anything else could run code"
            )


def check_tree(tree: Any) -> None:
    """Hold a tree whose names have been checked to plain containers of arrays and numbers.

    Raises:
        RefusedError: for anything else.
        DamagedError: for arrays that do not fit their data.
    """
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or as_array(node) is not None:
            continue
        seen.add(id(node))
        if isinstance(node, Outside):
            raise RefusedError("refers to objects outside of the file")
        if isinstance(node, Call) and node.function not in (ORDERED, ENCODE, _NO_BYTES):
            _type(node)
        if isinstance(node, Name):
            raise DamagedError(f"is no pickled checkpoint, or is damaged: {node} is no value")
        waiting.extend(children(node) or ())


def evaluate(node: Any, file: BinaryIO, done: dict[int, Any]) -> Any:
    """The content of a tree that has been checked; what comes twice is made once.

    Args:
        node: Of the tree.
        file: That has the data.
        done: What has been made, by the node's id.
    """
    if id(node) in done:
        return done[id(node)]
    result: Any = node
    array = as_array(node)
    if array is not None:
        result = read_array(array, file)
    elif isinstance(node, dict):
        result = {name: evaluate(value, file, done) for name, value in node.items()}
    elif isinstance(node, list | tuple):
        result = [evaluate(value, file, done) for value in node]
    elif isinstance(node, Data):
        raw = bytes_of(node, file)
        result = raw.decode("latin1") if node.text else raw
    elif isinstance(node, Call):
        result = _evaluate_call(node, file, done)
    if isinstance(node, dict | list | tuple | Call):
        done[id(node)] = result
    return result


def _evaluate_call(node: Call, file: BinaryIO, done: dict[int, Any]) -> Any:
    if node.function != ORDERED:
        return bytes_of(node, file)
    result = {}
    for name, value in node.arguments[0] if node.arguments else ():
        if not isinstance(name, str | int):
            raise DamagedError("is no pickled checkpoint, or is damaged: a name is no text")
        result[name] = evaluate(value, file, done)
    return result | {name: evaluate(value, file, done) for name, value in node.pairs.items()}


def _array(kind: Any, shape: Any, order: Any, data: Any, *, scalar: bool = False) -> Array:
    number, swapped = _type(kind)
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(size) is int and size >= 0 for size in sizes) or len(sizes) > _MOST_DIMENSIONS:
        raise DamagedError("is no pickled checkpoint, or is damaged: an array without a shape")
    array = Array(number, swapped, sizes, order, data, scalar)
    least, most = _length(data)
    if not least <= array.size <= most:
        raise DamagedError(_unfitting(array, most))
    return array


def _length(data: Any) -> tuple[float, float]:
    """The least and the most bytes that these are, as far as it shows without reading them."""
    if isinstance(data, Call) and data.function == ENCODE:
        return _length(_parts(data.arguments, 1, 2)[0])
    if isinstance(data, Data):
        # As a text, a byte takes one or two.
        return data.length / (2 if data.text else 1), data.length
    if isinstance(data, Call) and data.function == _NO_BYTES:
        return 0, 0
    if isinstance(data, str | bytes | bytearray):
        return len(data), len(data)
    raise DamagedError("is no pickled checkpoint, or is damaged: an array without its data")


def _unfitting(array: Array, length: float) -> str:
    shape = " x ".join(map(str, array.shape)) or "1"
    return f"is damaged: an array of {shape} numbers, {array.size} bytes, has {length} bytes"


def _type(node: Any) -> tuple[np.dtype[Any], bool]:
    if not isinstance(node, Call) or node.function != DTYPE:
        raise RefusedError("has arrays without a type of numbers")
    name = _parts(node.arguments, 1, 3)[0]
    if name not in KINDS:
        raise RefusedError(f"has arrays of {name!r}, and only numbers are read: {', '.join(KINDS)}")
    state = node.state or (3, "|", None, None, None)
    if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
        raise RefusedError("has arrays of records, and only numbers are read")
    return np.dtype(str(name)), state[1] == _FOREIGN


def _parts(node: Any, least: int, most: int | None = None) -> tuple[Any, ...]:
    if not isinstance(node, tuple) or not least <= len(node) <= (most or least):
        raise DamagedError("is no pickled checkpoint, or is damaged: a part of an array is missing")
    return node
