"""Which source pixels an output pixel reads, and how to read them where the image ends."""

from collections.abc import Sequence
from types import EllipsisType
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


def empty_output(
    features: Tensor, out_size: Sequence[int], dtype: torch.dtype | None = None
) -> Tensor:
    """Room for the output, in the memory format of the features, and their dtype or another."""
    batch, channels, height, width = *features.shape[:2], *out_size
    if features.is_contiguous() or not features.is_contiguous(memory_format=torch.channels_last):
        return features.new_empty((batch, channels, height, width), dtype=dtype)
    return features.new_empty((batch, height, width, channels), dtype=dtype).permute(0, 3, 1, 2)


def read_window(
    image: Tensor, top: int, left: int, height: int, width: int, dtype: torch.dtype
) -> Tensor:
    """Copy ``image[..., top : top + height, left : left + width]``, zero outside the image."""
    window = image.new_empty((*image.shape[:-2], height, width), dtype=dtype)
    fill_window(window, image, top, left)
    return window


def fill_window(window: Tensor, image: Tensor, top: int, left: int) -> None:
    """:func:`read_window` into memory that is there already."""
    height, width = window.shape[-2:]
    inside, source = _overlap(image, top, left, height, width)
    window[inside] = image[source]
    _, rows, columns = inside
    # Most windows end beyond the image on one or two sides only, and small calls count.
    if rows.start > 0:
        window[..., : rows.start, :].zero_()
    if rows.stop < height:
        window[..., rows.stop :, :].zero_()
    if columns.start > 0:
        window[..., rows, : columns.start].zero_()
    if columns.stop < width:
        window[..., rows, columns.stop :].zero_()


def add_window(image: Tensor, window: Tensor, top: int, left: int) -> None:
    """Add ``window`` to ``image`` at ``(top, left)``; what falls outside the image is dropped.

    The adjoint of :func:`read_window`.
    """
    inside, source = _overlap(image, top, left, window.shape[-2], window.shape[-1])
    image[source] += window[inside]


def store_window(image: Tensor, window: Tensor, top: int, left: int) -> None:
    """:func:`add_window` to an image of zeros."""
    inside, source = _overlap(image, top, left, window.shape[-2], window.shape[-1])
    image[source] = window[inside]


_Region = tuple[EllipsisType, slice, slice]


def _overlap(
    image: Tensor, top: int, left: int, height: int, width: int
) -> tuple[_Region, _Region]:
    """The common part of a window and an image, in the window's and in the image's coordinates."""
    y0, y1 = max(top, 0), min(top + height, image.shape[-2])
    x0, x1 = max(left, 0), min(left + width, image.shape[-1])
    y1, x1 = max(y0, y1), max(x0, x1)
    inside = (..., slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    return inside, (..., slice(y0, y1), slice(x0, x1))
