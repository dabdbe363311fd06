"""The transformer encoder of Mask2Former's pixel decoder.

Every pixel of a few maps looks at a few points of all maps, which it chooses itself (Zhu et al.,
Deformable DETR, ICLR 2021). Shapes: B images, C channels, L maps; the S tokens are the pixels of
all maps, row by row, one map after the other.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqfusion.layers.checks import check_positive
from freqfusion.layers.deformable import MultiScaleDeformableAttention
from freqfusion.modeling.mask2former.attention_layers import SinePositionEncoding

Size = tuple[int, int]


def pixel_centers(sizes: Sequence[Size], *, device: torch.device | str | None = None) -> Tensor:
    """Return where the pixels of maps of these sizes lie in the image.

    Returns:
        (S, 2), x and y in (0, 1) of the pixels of all maps, row by row, one map after the other. In
        float32 for every model: in half precision, neighbours on a side of some hundred pixels
        would share their coordinates.
    """

    def axis(length: int) -> Tensor:
        return (torch.arange(length, device=device, dtype=torch.float32) + 0.5) / length

    centers = []
    for height, width in sizes:
        x = axis(width).expand(height, width)
        y = axis(height)[:, None].expand(height, width)
        centers.append(torch.stack((x, y), dim=-1).flatten(0, 1))
    return torch.cat(centers)


class DeformableEncoderLayer(nn.Module):
    """Deformable attention among all pixels, then a feed-forward network for each of them.

    Args:
        channels: Width C of the tokens.
        num_levels: Number of maps L.
        nheads: Attention heads; a divisor of ``channels``.
        num_points: Points that a head of a pixel looks at in each map.
        dim_feedforward: Width inside the feed-forward network.
        dropout: Share of values that are dropped in training.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_levels: int,
        nheads: int,
        num_points: int,
        dim_feedforward: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        check_positive(dim_feedforward=dim_feedforward)
        self.self_attn = MultiScaleDeformableAttention(
            embed_dim=channels, num_levels=num_levels, num_heads=nheads, num_points=num_points
        )
        self.norm1 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, tokens: Tensor, positions: Tensor, reference_points: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Return new tokens (B, S, C).

        Args:
            tokens: (B, S, C).
            positions: (S, C), added where a pixel chooses what it looks at.
            reference_points: (B, S, L, 2), the center of these points.
            sizes: Height and width of each map.
        """
        # No padding mask: what is beyond an image is zeros, and is looked at like everything else.
        attended = self.self_attn(tokens + positions, reference_points, tokens, sizes)
        tokens = self.norm1(tokens + self.dropout(attended))
        hidden = self.dropout(F.relu(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))  # type: ignore[no-any-return]


class _LayerStack(nn.Module):
    """Layers one after another; with ``use_checkpoint`` each is recomputed in the backward pass."""

    def __init__(self, layers: Iterable[DeformableEncoderLayer], *, use_checkpoint: bool):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.use_checkpoint = use_checkpoint

    def forward(
        self, tokens: Tensor, positions: Tensor, reference_points: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """Return new tokens (B, S, C)."""
        for layer in self.layers:
            if self.use_checkpoint and torch.is_grad_enabled():
                tokens = checkpoint(
                    layer, tokens, positions, reference_points, sizes, use_reentrant=False
                )
            else:
                tokens = layer(tokens, positions, reference_points, sizes)
        return tokens


class DeformableEncoder(nn.Module):
    """Let the pixels of all maps exchange what they see. Sizes and widths stay as they are.

    Parameter names are those of the published weights: ``level_embed`` and ``encoder.layers.*``.

    Args:
        channels: Width C of the maps; even.
        num_levels: Number of maps L.
        num_layers: Number of layers.
        nheads: Attention heads; a divisor of ``channels``.
        num_points: Points that a head of a pixel looks at in each map.
        dim_feedforward: Width inside the feed-forward networks.
        dropout: Share of values that are dropped in training.
        use_checkpoint: Recompute each layer in the backward pass instead of keeping what it
            computes on the way.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_levels: int,
        num_layers: int = 6,
        nheads: int = 8,
        num_points: int = 4,
        dim_feedforward: int = 1024,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
    ):
        super().__init__()
        check_positive(num_levels=num_levels, num_layers=num_layers)
        self.num_levels = num_levels
        self.position_encoding = SinePositionEncoding(channels=channels)
        self.level_embed = nn.Parameter(torch.empty(num_levels, channels))
        nn.init.normal_(self.level_embed)
        layers = (
            DeformableEncoderLayer(
                channels=channels,
                num_levels=num_levels,
                nheads=nheads,
                num_points=num_points,
                dim_feedforward=dim_feedforward,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.encoder = _LayerStack(layers, use_checkpoint=use_checkpoint)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Encode ``num_levels`` maps (B, C, H, W), each of any size.

        The attention takes the image's coordinates, not distances in pixels, from map to map, so
        that the ratios of the sizes are free too. The maps come back in the type of the parameters.

        Raises:
            ValueError: if it is another number of maps.
        """
        if len(maps) != self.num_levels:
            raise ValueError(
                f"the encoder was built for {self.num_levels} maps (num_levels), got {len(maps)}"
            )
        # Under autocast the layers compute in half precision, but what they add up stays in the
        # parameters' float32: every layer of a stack adds to it, and its rounding would pile up.
        # (The research code runs the whole encoder in float32.)
        maps = [feat.to(self.level_embed.dtype) for feat in maps]
        sizes = [(feat.shape[-2], feat.shape[-1]) for feat in maps]
        tokens = torch.cat([_tokens(feat) for feat in maps], dim=1)
        positions = torch.cat(
            [
                _tokens(self.position_encoding(feat)) + level
                for feat, level in zip(maps, self.level_embed, strict=True)
            ]
        )
        centers = pixel_centers(sizes, device=tokens.device)
        reference_points = centers[:, None].expand(tokens.shape[0], -1, self.num_levels, -1)
        tokens = self.encoder(tokens, positions, reference_points, sizes)
        parts = tokens.split([height * width for height, width in sizes], dim=1)
        return [
            part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)
        ]


def _tokens(feat: Tensor) -> Tensor:
    """Return the pixels (..., H * W, C) of a map (..., C, H, W)."""
    return feat.flatten(-2).transpose(-1, -2)
