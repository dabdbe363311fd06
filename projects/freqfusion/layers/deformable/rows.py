"""The operator on a CPU: weighted sums of the rows of a table, a few queries at a time.

The pixels of one head are the rows, and what a query reads are bags of rows with weights: torch's
``embedding_bag``. No sample is ever written out, and the numbers that belong to a chunk of queries
stay in a core's cache.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.deformable.corners import Corners, Lattice
from freqfusion.layers.neighbourhood.geometry import accumulation_dtype
from freqfusion.layers.sampling import nan_if_infinite

# Samples in one chunk: an array of them is 64 KiB in float32, and about twenty are in use at once.
_CHUNK_SAMPLES = 1 << 14


def attend(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of samples."""
    dtype = accumulation_dtype(value.dtype)
    output = value.new_empty((*locations.shape[:3], value.shape[-1]))
    chunks = Chunks(locations, shapes, dtype)
    for image, head in chunks.heads():
        table = value[image, :, head].to(dtype).contiguous()
        for part, corners in chunks.of(image, head):
            weight = weights[image, part, head].to(dtype).flatten(1).contiguous()
            total: Tensor | None = None
            for rows, corner in zip(corners.rows, corners.weights(), strict=True):
                bag = F.embedding_bag(
                    rows, table, per_sample_weights=corner.mul_(weight), mode="sum"
                )
                total = bag if total is None else total.add_(bag)
            assert total is not None
            output[image, part, head] = total
    return output.flatten(2)


class Chunks:
    """All samples, cut by image, by head, and into a few queries at a time."""

    def __init__(self, locations: Tensor, shapes: Sequence[tuple[int, int]], dtype: torch.dtype):
        _, queries, _, levels, points, _ = locations.shape
        self._locations = locations
        self._length = max(1, min(queries, _CHUNK_SAMPLES // (levels * points)))
        self._lattice = Lattice.of(shapes, points, dtype).repeated(self._length)

    def heads(self) -> Iterator[tuple[int, int]]:
        """Every image and head."""
        for image in range(self._locations.shape[0]):
            for head in range(self._locations.shape[2]):
                yield image, head

    def of(self, image: int, head: int) -> Iterator[tuple[slice, Corners]]:
        """The chunks of one image and head: which queries, and their corners."""
        queries = self._locations.shape[1]
        for start in range(0, queries, self._length):
            part = slice(start, min(start + self._length, queries))
            local = nan_if_infinite(self._locations[image, part, head])
            local = local.to(self._lattice.width.dtype)
            lattice = self._lattice.narrowed(part.stop - start)
            yield part, Corners.of(local.flatten(1, 2).contiguous(), lattice)
