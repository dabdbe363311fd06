"""Layers of a transformer decoder: attention, self and cross attention, feed-forward network.

Shapes: B images, Q queries, S pixels of a map, C channels. Everything is batch first, and each
layer adds what it computes to its input. With ``pre_norm`` a layer normalises its input instead of
its output.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from freqfusion.layers.checks import check_positive


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
        """Xavier for the weights, zero for the biases."""
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
        """New queries (B, Q, C); the positions are added where queries are compared."""
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
        """New queries (B, Q, C) from pixels (B, S, C); ``allowed`` is (B, Q, S)."""
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
        """New queries (B, Q, C)."""
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
        """Tokens (..., out_channels) from tokens (..., channels)."""
        *hidden, last = self.layers
        for layer in hidden:
            tokens = F.relu(layer(tokens))
        return last(tokens)  # type: ignore[no-any-return]
