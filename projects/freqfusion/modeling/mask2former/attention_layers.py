"""Layers of a transformer decoder, and sine encodings of the positions that they add.

Shapes: B images, Q queries, S pixels of a map, C channels. Everything is batch first, and each
layer adds what it computes to its input. With ``pre_norm`` a layer normalizes its input instead of
its output.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from freqfusion.layers.checks import check_positive

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
    """Return the encoding (channels, length) of the positions along one side."""
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


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with several heads.

    The parameters have the names and shapes of ``torch.nn.MultiheadAttention``. Unlike there, the
    mask is shared by all heads without being repeated, and no attention map is written out.

    Args:
        channels: Width C of queries, keys and values.
        heads: Number of heads; a divisor of ``channels``.
    """

    def __init__(self, *, channels: int, heads: int):
        super().__init__()
        check_positive(channels=channels, heads=heads)
        if channels % heads:
            raise ValueError(
                f"heads must divide the channels, since each head gets an equal part; got {heads} "
                f"heads for {channels} channels"
            )
        self.channels, self.heads = channels, heads
        self.in_proj_weight = Parameter(nn.Linear(channels, 3 * channels).weight.detach())
        self.in_proj_bias = Parameter(self.in_proj_weight.new_zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights by Xavier's rule, and set the biases to zero."""
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, S, C).
            value: (B, S, C).
            allowed: (B, Q, S), true where a query may look; at least one pixel for each query,
                since a mean over nothing is not a number. All, where it is not given.

        Returns:
            (B, Q, C).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        queries, keys, values = (
            F.linear(tokens, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for tokens, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class SelfAttentionLayer(nn.Module):
    """Let the queries look at each other."""

    def __init__(self, *, channels: int, heads: int, pre_norm: bool = False):
        super().__init__()
        self.pre_norm = pre_norm
        self.self_attn = MultiHeadAttention(channels=channels, heads=heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: Tensor, query_positions: Tensor) -> Tensor:
        """Return new queries (B, Q, C); the positions are added where queries are compared."""
        content = self.norm(queries) if self.pre_norm else queries
        placed = content + query_positions
        queries = queries + self.self_attn(placed, placed, content)
        return queries if self.pre_norm else self.norm(queries)


class CrossAttentionLayer(nn.Module):
    """Let the queries look at the pixels that they are allowed to see."""

    def __init__(self, *, channels: int, heads: int, pre_norm: bool = False):
        super().__init__()
        self.pre_norm = pre_norm
        self.multihead_attn = MultiHeadAttention(channels=channels, heads=heads)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self,
        queries: Tensor,
        query_positions: Tensor,
        pixels: Tensor,
        pixel_positions: Tensor,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Return new queries (B, Q, C) from pixels (B, S, C); ``allowed`` is (B, Q, S)."""
        content = self.norm(queries) if self.pre_norm else queries
        queries = queries + self.multihead_attn(
            content + query_positions, pixels + pixel_positions, pixels, allowed
        )
        return queries if self.pre_norm else self.norm(queries)


class FeedForwardLayer(nn.Module):
    """Two linear maps with a ReLU between them, for each query alone."""

    def __init__(self, *, channels: int, hidden_channels: int, pre_norm: bool = False):
        super().__init__()
        check_positive(channels=channels, hidden_channels=hidden_channels)
        self.pre_norm = pre_norm
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.linear2 = nn.Linear(hidden_channels, channels)
        self.norm = nn.LayerNorm(channels)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, queries: Tensor) -> Tensor:
        """Return new queries (B, Q, C)."""
        content = self.norm(queries) if self.pre_norm else queries
        queries = queries + self.linear2(F.relu(self.linear1(content)))
        return queries if self.pre_norm else self.norm(queries)


class MultiLayerPerceptron(nn.Module):
    """Linear maps of one width with ReLU between them, the last one to another width."""

    def __init__(self, *, channels: int, out_channels: int, num_layers: int):
        super().__init__()
        check_positive(channels=channels, out_channels=out_channels, num_layers=num_layers)
        widths = [channels] * num_layers + [out_channels]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens (..., out_channels) from tokens (..., channels)."""
        *hidden, last = self.layers
        for layer in hidden:
            tokens = F.relu(layer(tokens))
        return last(tokens)  # type: ignore[no-any-return]
