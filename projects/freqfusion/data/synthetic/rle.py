"""COCO's run-length encoding of masks, in numpy.

The runs go down the columns and alternate between background and foreground, background first (0
long where the first pixel is foreground). The compressed form writes each run as its difference to
the run two before it, five bits a character, lowest bits first, as COCO's maskApi does.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from freqfusion.data.synthetic.arrays import BoolArray, IntArray

_FIRST_CHARACTER = 48
_MORE = 0x20
_SIGN = 0x10


class RunLengths(TypedDict):
    """The JSON form: ``size`` is [height, width], ``counts`` the runs, compressed or not."""

    size: list[int]
    counts: str | list[int]


def encode(mask: BoolArray, *, compressed: bool = True) -> RunLengths:
    """Encode a mask as COCO RLE."""
    counts = run_lengths(mask)
    height, width = mask.shape
    return {
        "size": [height, width],
        "counts": compress(counts) if compressed else counts.tolist(),
    }


def decode(encoded: RunLengths) -> BoolArray:
    """The mask of ``encoded``, compressed or not; ValueError when the runs do not fill it."""
    height, width = encoded["size"]
    counts = encoded["counts"]
    runs = decompress(counts) if isinstance(counts, str) else np.array(counts, dtype=np.int64)
    if runs.sum() != height * width:
        raise ValueError(
            f"the runs cover {runs.sum()} pixels, but a {height}x{width} mask has {height * width}"
        )
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def run_lengths(mask: BoolArray) -> IntArray:
    """Lengths of the runs of ``mask`` down its columns, background first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if flat.size and flat[0] else [0]
    return np.diff(np.concatenate([start, changes, [flat.size]]))


def compress(counts: IntArray) -> str:
    """Write runs as COCO's compressed string."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    digits = []
    unfinished = np.ones(len(values), dtype=np.bool_)
    while unfinished.any():
        low = values & 0x1F
        values = values >> 5
        more = unfinished & np.where(low & _SIGN, values != -1, values != 0)
        digits.append(np.where(unfinished, low + np.where(more, _MORE, 0) + _FIRST_CHARACTER, 0))
        unfinished = more
    if not digits:
        return ""
    characters = np.stack(digits, axis=1)
    return characters[characters > 0].astype(np.uint8).tobytes().decode("ascii")


def decompress(text: str) -> IntArray:
    """Read runs from COCO's compressed string; ValueError when it ends within a number."""
    counts: list[int] = []
    value, shift = 0, 0
    for character in text.encode("ascii"):
        digit = character - _FIRST_CHARACTER
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & _MORE:
            continue
        if digit & _SIGN:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
        value, shift = 0, 0
    if shift:
        raise ValueError(f"the compressed runs end within a number: ...{text[-8:]!r}")
    return np.array(counts, dtype=np.int64)
