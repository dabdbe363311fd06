"""Sine position encodings of the pixels of a map."""

import math

import torch
from torch import Tensor, nn

_TEMPERATURE = 10_000.0
_EPSILON = 1e-6


def sine_position_encoding(
    size: tuple[int, int],
    channels: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Encode the row and the column of every pixel as sines and cosines.

    Rows (counted from 1) are scaled so that the last one is at 2 pi, columns alike; a position p
    gives sin(p / w) and cos(p / w) alternately, for wave lengths w that grow geometrically from 1
    to nearly 10000 (Carion et al., End-to-End Object Detection with Transformers, ECCV 2020).

    Args:
        size: Height and width, both at least 1.
        channels: Even number of channels; the first half encodes the row, the second the column.
            An odd half ends with a sine whose cosine is left out.
        device: Where the result is made.
        dtype: Type of the result. It is computed in float32 for every type, so that a model in
            another precision sees the same positions.

    Returns:
        (channels, height, width), values in [-1, 1].

    Raises:
        ValueError: if ``channels`` is odd or not positive, or a side is empty.
    """
    if channels < 2 or channels % 2:
        raise ValueError(
            f"channels must be a positive even number, one half for rows and one for columns; got "
            f"{channels}"
        )
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least (1, 1), got {tuple(size)}")
    rows = _encode_axis(height, channels // 2, device)[:, :, None].expand(-1, -1, width)
    columns = _encode_axis(width, channels // 2, device)[:, None, :].expand(-1, height, -1)
    return torch.cat((rows, columns)).to(dtype)


def _encode_axis(length: int, channels: int, device: torch.device | str | None) -> Tensor:
    """Encoding (channels, length) of the positions along one side."""
    positions = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    positions = positions / (length + _EPSILON) * (2 * math.pi)
    pairs = torch.arange(channels, device=device, dtype=torch.float32).div(2).floor()
    phases = positions / (_TEMPERATURE ** (2 * pairs / channels))[:, None]
    encoding = torch.empty_like(phases)
    encoding[0::2] = phases[0::2].sin()
    encoding[1::2] = phases[1::2].cos()
    return encoding


class SinePositionEncoding(nn.Module):
    """The position encoding that belongs to a map; a module without parameters.

    Args:
        channels: Even number of channels of the encoding.
    """

    def __init__(self, *, channels: int):
        super().__init__()
        sine_position_encoding((1, 1), channels)  # refuses what it cannot encode, here already
        self.channels = channels

    def forward(self, feat: Tensor) -> Tensor:
        """Encoding (channels, H, W) for a map (..., H, W), on its device and in its type."""
        size = (feat.shape[-2], feat.shape[-1])
        return sine_position_encoding(size, self.channels, device=feat.device, dtype=feat.dtype)

    def extra_repr(self) -> str:
        """Show the width in ``repr``."""
        return f"channels={self.channels}"
