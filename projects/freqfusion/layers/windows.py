"""Windows of maps, and what attention inside them needs.

Shapes: B images of H x W pixels with C channels, channels last; windows of ``size`` x ``size``
pixels, T in each, N in each map, both counted row by row.

Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# What is added to the logits of pixels that must not see each other. Published models were trained
# with this finite number; only logits that differ by about as much would show the difference.
APART = -100.0


def pad_to_multiple(maps: Tensor, size: int) -> Tensor:
    """Add zeros below and on the right of maps (B, H, W, C), up to the next multiple of a size."""
    height, width = maps.shape[1:3]
    return F.pad(maps, (0, 0, 0, -width % size, 0, -height % size))


def split_windows(maps: Tensor, size: int) -> Tensor:
    """Maps (B, H, W, C), H and W multiples of the size, to windows (B, N, T, C)."""
    batch, height, width, channels = maps.shape
    windows = maps.view(batch, height // size, size, width // size, size, channels).transpose(2, 3)
    return windows.reshape(batch, -1, size * size, channels)


def join_windows(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """Windows (B, N, T, C) to maps (B, H, W, C): the inverse of ``split_windows``."""
    batch, _, _, channels = windows.shape
    rows = windows.view(batch, height // size, width // size, size, size, channels)
    return rows.transpose(2, 3).reshape(batch, height, width, channels)


def relative_position_index(size: int) -> Tensor:
    """Rows (T, T) of a table with a row for each displacement, for each pair of pixels.

    The table has ``(2 * size - 1) ** 2`` rows: displacements of -(size - 1) to size - 1 down, and
    for each of them as many to the right, of the first pixel from the second.
    """
    line = torch.arange(size)
    y, x = (axis.flatten() for axis in torch.meshgrid(line, line, indexing="ij"))
    down, right = (axis[:, None] - axis[None, :] + size - 1 for axis in (y, x))
    return down * (2 * size - 1) + right


def shift_mask(
    height: int, width: int, *, size: int, shift: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What to add to the logits (N, T, T) of maps that were rolled up and left by ``shift``.

    The last windows then hold pixels from opposite edges, which must not see each other: ``APART``
    for such a pair, 0 for any other. Sizes are multiples of ``size``; ``0 <= shift < size``.
    """

    def parts(length: int) -> Tensor:
        place = torch.arange(length, device=device)
        return (place >= length - size).long() + (place >= length - shift).long()

    parts_of_map = 3 * parts(height)[:, None] + parts(width)[None, :]
    windows = split_windows(parts_of_map[None, :, :, None], size)[0, :, :, 0]
    apart = windows[:, :, None] != windows[:, None, :]
    return torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill_(apart, APART)
