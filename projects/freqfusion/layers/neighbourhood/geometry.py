"""Which source pixels an output pixel reads, and how to read them where the image ends."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

IndexT = TypeVar("IndexT", int, Tensor)


class Geometry(NamedTuple):
    """How output pixels look at source pixels.

    ``margin`` counts the border pixels that the features already carry on every side (a reflected
    border, say); beyond what they carry, everything is zero.
    """

    kernel_size: int
    dilation: int = 1
    scale: int = 1
    groups: int = 1
    margin: int = 0

    @property
    def reach(self) -> int:
        """Distance from the centre of the neighbourhood to its outermost tap."""
        return self.dilation * (self.kernel_size // 2)

    @property
    def taps(self) -> int:
        """Number of neighbours, the centre included."""
        return self.kernel_size**2

    @property
    def shifts(self) -> range:
        """Where the taps of one axis start, counted from the first one."""
        return range(0, self.kernel_size * self.dilation, self.dilation)

    def source_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the features without the margin."""
        return height - 2 * self.margin, width - 2 * self.margin

    def is_whole(self, out: int, size: int) -> bool:
        """Whether an axis of ``out`` pixels is ``scale`` times ``size``, the last pixel cropped."""
        return size == -(-out // self.scale)

    def source(self, index: IndexT, out: int, size: int) -> IndexT:
        """The source pixel under output pixel ``index`` on an axis that maps ``size`` to ``out``.

        A whole multiple, cropped or not, repeats every source pixel ``scale`` times; any other
        ratio takes the nearest source pixel, as ``torch.nn.functional.interpolate`` does.
        """
        # Up to scale 2 both rules give the same answer. Asking for it without a branch keeps an
        # exported graph free of conditions on its dynamic sizes.
        if self.scale > 2 and self.is_whole(out, size):
            return index // self.scale
        return index * size // out


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision is summed in float32; everything else in its own precision."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def memory_format_of(map_: Tensor) -> torch.memory_format:
    """Return the memory format that results take over from a map (B, C, H, W)."""
    is_last = map_.is_contiguous(memory_format=torch.channels_last) and not map_.is_contiguous()
    return torch.channels_last if is_last else torch.contiguous_format


def empty_output(features: Tensor, kernels: Tensor) -> Tensor:
    """Return an empty map for a gather: of the size of the kernels, else like the features."""
    return torch.empty(
        (*features.shape[:2], *kernels.shape[-2:]),
        dtype=features.dtype,
        device=features.device,
        memory_format=memory_format_of(features),
    )


def empty_features(values: Tensor, size: Sequence[int]) -> Tensor:
    """Return an empty map of height and width ``size`` for a scatter of values."""
    return torch.empty(
        (*values.shape[:2], *size),
        dtype=accumulation_dtype(values.dtype),
        device=values.device,
        memory_format=memory_format_of(values),
    )


def empty_kernels(values: Tensor, geometry: Geometry) -> Tensor:
    """Return empty kernels for a correlation of values."""
    return torch.empty(
        (values.shape[0], geometry.groups * geometry.taps, *values.shape[-2:]),
        dtype=accumulation_dtype(values.dtype),
        device=values.device,
        memory_format=memory_format_of(values),
    )
