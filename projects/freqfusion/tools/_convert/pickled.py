"""Read pickles of arrays without running code from them.

A pickle is a program that may call whatever it can name. This one may name nothing but the few
things that arrays are written with, and those are replaced by classes of this module, so that not
even numpy's own rebuilding is reached. Known is how numpy writes arrays in every protocol, under
Python 2 too.
"""

import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

# Kind and bytes of the numbers that tensors have, as numpy writes them.
_KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8")
# The mark of a byte order that is not the machine's.
_FOREIGN = ">" if sys.byteorder == "little" else "<"
_DAMAGE = (
    EOFError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class RefusedError(pickle.UnpicklingError):
    """The file names something that is no array."""


def read_pickle(path: Path) -> Any:
    """The plain containers, texts and numbers in a pickle, with tensors in place of arrays.

    Raises:
        ValueError: if the file holds objects of any other kind, or is no pickle.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="latin1").load()
        return _with_tensors(content)
    except RefusedError as error:
        raise ValueError(f"{path} {error}") from error
    except (pickle.UnpicklingError, *_DAMAGE) as error:
        raise ValueError(f"{path} is no pickled checkpoint, or is damaged: {error}") from error


class _Type:
    """The type of an array's numbers; stands for ``numpy.dtype``."""

    def __init__(self, name: object, *_: object):
        if name not in _KINDS:
            raise RefusedError(
                f"has arrays of {name!r}, and only numbers are read: {', '.join(_KINDS)}"
            )
        self.type, self.swapped = np.dtype(str(name)), False

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise RefusedError("has arrays of records, and only numbers are read")
        self.swapped = state[1] == _FOREIGN

    def read(self, data: str | bytes | bytearray) -> np.ndarray:
        # Python 2 had no bytes; their values come as those of the characters.
        raw = data.encode("latin1") if isinstance(data, str) else data
        values = np.frombuffer(raw, self.type.newbyteorder() if self.swapped else self.type)
        return values.astype(self.type)  # a copy that may be written to, in the machine's order


class _Array:
    """An array that is being rebuilt; stands for ``numpy.ndarray``."""

    values: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, columns_first, data = state
        self.values = _values(data, kind, shape, "F" if columns_first else "C")


def _values(data: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    if not isinstance(kind, _Type):
        raise RefusedError("has arrays without a type of numbers")
    return np.ascontiguousarray(kind.read(data).reshape(shape, order=order)).reshape(shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = _values(data, kind, shape, order)
    return array


def _scalar(kind: Any, data: Any) -> Any:
    return _values(data, kind, ()).item()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes for readers of Python 2; other encodings could run codecs."""
    if encoding not in ("latin1", "latin-1"):
        raise RefusedError(f"has bytes in the encoding {encoding!r}; only latin1 is read")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How Python 3 writes no bytes at all for Python 2; with arguments it would allocate memory."""
    return b""


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise RefusedError(
                f"holds {module}.{name}, and only arrays of numbers, lists, dicts, numbers and "
                "texts are read, since anything else could run code. Where the file is trusted, "
                "save its weights alone with torch.save and convert that"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> NoReturn:
        raise RefusedError("refers to objects outside of the file")


def _with_tensors(content: Any) -> Any:
    if isinstance(content, _Array):
        return torch.from_numpy(content.values)
    if isinstance(content, dict):
        return {name: _with_tensors(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_tensors(value) for value in content]
    return content
