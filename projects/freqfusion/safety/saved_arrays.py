"""Numbers and arrays of numpy in what ``torch.save`` wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from freqfusion.safety import arrays
from freqfusion.safety.pickle_tree import Name


def numpy_parts(names: list[Name]) -> list[Any]:
    """What rebuilds numpy's numbers and arrays, under the names that a file has for it.

    The tree has been checked: numbers only, as many as there are bytes.
    """
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    named = [(scalar, name) for name in names if name in arrays.SCALAR]
    named += [(rebuild, name) for name in names if name in arrays.RECONSTRUCT]
    found: list[Any] = [(function, str(name)) for function, name in named]
    if found:
        types = {type(np.dtype(kind)) for kind in arrays.KINDS}
        found += [np.dtype, np.ndarray, *sorted(types, key=str)]
    return found


def without_numpy(content: Any) -> Any:
    """With tensors in place of arrays, and plain numbers; dicts and lists stay the same ones."""
    return _without_numpy(content, {})


def _without_numpy(content: Any, done: dict[int, Any]) -> Any:
    if isinstance(content, np.generic):
        return content.item()
    if isinstance(content, np.ndarray):
        native = np.ascontiguousarray(content, content.dtype.newbyteorder("="))
        return torch.from_numpy(native.reshape(content.shape).copy())
    if id(content) in done:
        return done[id(content)]
    if isinstance(content, dict | list):
        done[id(content)] = content
        places = list(content) if isinstance(content, dict) else range(len(content))
        for place in places:
            content[place] = _without_numpy(content[place], done)
    elif type(content) is tuple:
        done[id(content)] = tuple(_without_numpy(part, done) for part in content)
        return done[id(content)]
    return content
