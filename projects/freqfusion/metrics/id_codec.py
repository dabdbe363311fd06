"""Panoptic segment ids as colours: id = R + 256 G + 65536 B, as in COCO's panoptic PNGs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_ID = 256**3 - 1


def rgb_to_id(colors: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return ids (...) of an array of colours (... x 3, uint8)."""
    if colors.dtype != np.uint8 or colors.ndim < 1 or colors.shape[-1] != 3:
        raise ValueError(
            f"colours must be uint8 with a last side of 3 (R, G, B), not {colors.dtype} of shape"
            f" {colors.shape}; open the PNG in RGB mode"
        )
    wide = colors.astype(np.int32)
    return wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]


def id_to_rgb(ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return colours (... x 3, uint8) of an array of ids from 0 to 2**24 - 1."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids must be integers, not {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() > LARGEST_ID):
        raise ValueError(
            f"ids must lie in 0..{LARGEST_ID} to fit into a colour, but they span"
            f" {ids.min()}..{ids.max()}"
        )
    wide = ids.astype(np.int64)
    return np.stack([wide & 255, wide >> 8 & 255, wide >> 16], axis=-1).astype(np.uint8)
