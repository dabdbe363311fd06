"""Tensors in the tree of what ``torch.save`` wrote: what they are, and whether they can be so.

PyTorch reads them itself, with ``weights_only``. Here the tree is held to what a checkpoint needs,
which is less than PyTorch allows, and every tensor to the bytes that are there for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from freqfusion.safety import arrays
from freqfusion.safety.errors import DamagedError, RefusedError
from freqfusion.safety.pickle_tree import Call, Name, Outside, children

_DTYPES = {
    Name("torch", name): value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype)
}
_STORAGES = {
    Name("torch", f"{name}Storage"): dtype
    for name, dtype in (
        ("Float", torch.float32), ("Double", torch.float64), ("Half", torch.float16),
        ("BFloat16", torch.bfloat16), ("Long", torch.int64), ("Int", torch.int32),
        ("Short", torch.int16), ("Char", torch.int8), ("Byte", torch.uint8), ("Bool", torch.bool),
        ("ComplexFloat", torch.complex64), ("ComplexDouble", torch.complex128),
    )
}  # fmt: skip
_UNTYPED = Name("torch.storage", "UntypedStorage")
_SIMPLE, _USUAL, _NEWER, _PARAMETER = (
    Name("torch._utils", f"_rebuild_{name}")
    for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")
)
_SIZE, _DEVICE = Name("torch", "Size"), Name("torch", "device")
_COUNTER = Name("collections", "Counter")
_SETS = frozenset(Name(module, "set") for module in ("builtins", "__builtin__"))
# All that a file of torch.save may name. Of numpy: single numbers and arrays, such as a best score.
_PLAIN = {arrays.ORDERED, _COUNTER, _SIZE, _DEVICE, *_SETS, arrays.ENCODE}
_NUMPY = {arrays.NDARRAY, arrays.DTYPE, *arrays.RECONSTRUCT, *arrays.SCALAR}
_REBUILDING = {_SIMPLE, _USUAL, _NEWER, _PARAMETER}
NAMES = frozenset({*_DTYPES, *_STORAGES, _UNTYPED, *_REBUILDING, *_PLAIN, *_NUMPY})
# A tensor may repeat what it holds, such as one number that has been expanded, up to so many bytes.
_FREE = 1 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor whose numbers have not been read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: str
    storage_size: int  # bytes

    @property
    def count(self) -> int:
        """Number of numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes, with those that are repeated."""
        return self.count * self.dtype.itemsize

    @property
    def end(self) -> int:
        """Bytes of the storage up to the last number."""
        if not self.count:
            return 0
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((size - 1) * step for size, step in steps)
        return (last + 1) * self.dtype.itemsize


def as_tensor(node: Any) -> Tensor | None:
    """The tensor that a call would rebuild; nothing if it is no tensor.

    Raises:
        DamagedError: for parts that are missing or cannot be.
    """
    if not isinstance(node, Call):
        return None
    given = node.arguments
    try:
        if node.function == _PARAMETER:
            return as_tensor(given[0])
        if node.function not in _REBUILDING:
            return None
        key = given[0].key
        named, kind, name, count = key[0], key[1], key[2], key[4]
        untyped = kind == _UNTYPED
        dtype = _DTYPES[given[6]] if node.function == _NEWER else _STORAGES[kind]
        sizes = (count, given[1], *given[2], *given[3])
        if named != "storage" or any(type(size) is not int or size < 0 for size in sizes):
            raise ValueError("a size is none")
        if len(given[2]) != len(given[3]):
            raise ValueError("as many strides as sizes are needed")
        total = count if untyped else count * dtype.itemsize
        return Tensor(dtype, tuple(given[2]), tuple(given[3]), given[1], str(name), total)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DamagedError(f"is damaged: a tensor cannot be rebuilt: {error}") from error


def check_names(names: Iterable[Name]) -> None:
    """RefusedError for the first name that no checkpoint needs."""
    for name in names:
        if name not in NAMES:
            raise RefusedError(
                f"names {name}, and only tensors, numbers, texts and their containers are read,"
                " since anything else could run code"
            )


def check_tree(tree: Any, storages: Mapping[str, int] | None) -> dict[str, int]:
    """Hold a tree whose names have been checked to what may be called with what.

    Args:
        tree: Of the pickle.
        storages: Bytes of each storage that the file has, where it has a list of them.

    Returns:
        Bytes of each storage that tensors want.

    Raises:
        RefusedError: for what a checkpoint does not need.
        DamagedError: for tensors that do not fit what is there.
    """
    wanted: dict[str, int] = {}
    seen: set[int] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        tensor = as_tensor(node)
        if tensor is not None:
            _check_tensor(tensor, storages)
            wanted[tensor.storage] = max(wanted.get(tensor.storage, 0), tensor.storage_size)
            _check_hooks(node)
        elif isinstance(node, Outside):
            raise RefusedError("holds memory that is no tensor's")
        elif isinstance(node, Name) and node not in _DTYPES:
            raise RefusedError(f"holds {node} itself, which is no value")
        elif isinstance(node, Call):
            waiting.extend(_check_call(node))
        else:
            waiting.extend(children(node) or ())
    return wanted


def _check_tensor(tensor: Tensor, storages: Mapping[str, int] | None) -> None:
    shape = " x ".join(map(str, tensor.shape)) or "1"
    there = tensor.storage_size if storages is None else storages.get(tensor.storage)
    if there is None:
        raise DamagedError(f"is damaged: the numbers of a tensor of {shape} are missing")
    if max(tensor.storage_size, tensor.end) > there or tensor.end > tensor.storage_size:
        raise DamagedError(
            f"is damaged: a tensor of {shape} numbers of {tensor.dtype.itemsize} bytes has"
            f" {there} bytes"
        )
    if tensor.size > there + _FREE:
        raise RefusedError(
            f"has a tensor of {shape} numbers, {tensor.size} bytes, that repeats {there} bytes"
        )


def _check_hooks(node: Call) -> None:
    """No functions to be called on gradients; nothing else to restore."""
    if node.function == _PARAMETER:
        node_hooks = node.arguments[2:]
        _check_hooks(node.arguments[0])
    else:
        node_hooks = node.arguments[5:6] + node.arguments[7 if node.function == _NEWER else 6 :]
    for hooks in node_hooks:
        empty = hooks is None or hooks == {}
        if isinstance(hooks, Call):
            plain = hooks.function == arrays.ORDERED and hooks.arguments in ((), ([],))
            empty = plain and not (hooks.pairs or hooks.items or hooks.state)
        if not empty:
            raise RefusedError("has a tensor with more than numbers")
    if node.state is not None or node.items or node.pairs:
        raise RefusedError("has a tensor with more than numbers")


def _check_call(node: Call) -> Iterable[Any]:
    """What is in it that is to be checked too."""
    array = arrays.as_array(node)
    if array is not None:
        return ()
    check = _CALLS.get(node.function)
    if check is None or not isinstance(node.arguments, tuple):
        raise RefusedError(f"calls {node.function}, which is no value")
    if not check(node):
        raise RefusedError(f"calls {node.function} with what it is not made for")
    return (*node.arguments, *node.items, *node.pairs.values(), node.state)


def _ordered(node: Call) -> bool:
    return node.state is None or (isinstance(node.state, dict) and set(node.state) <= {"_metadata"})


def _counted(node: Call) -> bool:
    counts = [node.pairs, *node.arguments]
    return node.state is None and all(
        isinstance(count, dict) and all(type(value) is int for value in count.values())
        for count in counts
    )


def _sized(node: Call) -> bool:
    return len(node.arguments) == 1 and all(type(size) is int for size in node.arguments[0])


def _of_device(node: Call) -> bool:
    return all(isinstance(part, str | int) for part in node.arguments)


def _set(node: Call) -> bool:
    items = [*node.items, *(node.arguments[0] if node.arguments else ())]
    return all(isinstance(item, str | int | float) for item in items)


def _encoded(node: Call) -> bool:
    return node.arguments[1:] in ((), ("latin1",), ("latin-1",))


_CALLS: dict[Any, Callable[[Call], bool]] = {
    arrays.ORDERED: _ordered,
    arrays.ENCODE: _encoded,
    _COUNTER: _counted,
    _SIZE: _sized,
    _DEVICE: _of_device,
    **dict.fromkeys(_SETS, _set),
}
