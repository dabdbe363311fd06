"""Names for the array types that the synthetic scenes pass around."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
"""A mask, height x width."""

ByteArray = NDArray[np.uint8]
"""An RGB picture (height x width x 3) or a label map (height x width)."""

FloatArray = NDArray[np.float32]
"""A picture being painted (3 x height x width, 0..255), a colour (3 x 1 x 1), or a noise field."""

IdArray = NDArray[np.int32]
"""A map of segment ids, height x width, 0 for void."""

IntArray = NDArray[np.int64]
"""Counts, indices and polygon corners."""

PointArray = NDArray[np.float64]
"""Corners of an outline, n x 2, (x, y) in pixels."""
