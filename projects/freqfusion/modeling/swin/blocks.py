"""The parts of Swin, on maps with channels last; parameters have the published names.

Shapes: maps (B, H, W, C) of any size.

Liu et al., Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, ICCV 2021.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.renaming import rename_on_load
from freqfusion.layers.windows import (
    join_windows,
    pad_to_multiple,
    relative_position_index,
    split_windows,
)
from freqfusion.modeling.stochastic_depth import leave_out

INDEX = "relative_position_index"


class PatchEmbedding(nn.Module):
    """Patches of images to pixels of a map; zeros complete the last patches."""

    def __init__(self, *, in_channels: int, channels: int, patch_size: int, normalized: bool):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, channels, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(channels) if normalized else None

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to a map (B, ceil(H / patch), ceil(W / patch), C)."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        maps: Tensor = self.proj(padded).permute(0, 2, 3, 1)
        return maps if self.norm is None else self.norm(maps)


class PatchMerging(nn.Module):
    """Four pixels to one with twice the channels; zeros complete maps of odd sizes."""

    def __init__(self, *, channels: int):
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C)."""
        padded = pad_to_multiple(maps, 2)
        corners = [padded[:, y::2, x::2] for x in (0, 1) for y in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return merged


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned number for each displacement and head."""

    def __init__(self, *, channels: int, num_heads: int, window_size: int, qkv_bias: bool):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1) ** 2, num_heads)
        )
        index = relative_position_index(window_size)
        self.relative_position_index: Tensor
        self.register_buffer(INDEX, index, persistent=False)
        rename_on_load(self, renames={}, dropped={INDEX: INDEX})  # published files have it

    def forward(self, windows: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend inside each window.

        Args:
            windows: (B, N, T, C).
            mask: (N, T, T), added to the logits of all heads and images.
        """
        batch, count, pixels, channels = windows.shape
        parts = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1))
        # Windows and heads share an axis, so that one bias serves all images without copies.
        query, key, value = parts.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        # (N or 1, heads, T, T). Under autocast the kernels want the type of the queries; they add
        # the bias to logits of float32, so that it is the only one of the two that is rounded.
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[
            None
        ]
        if mask is not None:
            bias = bias + mask[:, None]
        bias = bias.expand(count, -1, -1, -1).flatten(0, 1).to(query.dtype)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None])
        seen = seen.unflatten(1, (count, self.num_heads)).transpose(2, 3)
        attended: Tensor = self.proj(seen.reshape(batch, count, pixels, channels))
        return attended


class Perceptron(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, *, channels: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape."""
        changed: Tensor = self.fc2(F.gelu(self.fc1(maps)))
        return changed


class SwinBlock(nn.Module):
    """Attention in windows and a perceptron, each added to what came in.

    Args:
        channels: Of the maps.
        num_heads: Must divide the channels.
        window_size: Side of the windows.
        shift: How far the windows are moved down and to the right; 0 keeps the grid.
        mlp_ratio: Width of the perceptron, in channels.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_path_rate: How often, in training, an image goes without a branch.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path_rate: float,
    ):
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        self.drop_path_rate = drop_path_rate
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(
            channels=channels, num_heads=num_heads, window_size=window_size, qkv_bias=qkv_bias
        )
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(channels=channels, hidden=int(channels * mlp_ratio))

    def forward(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, C) to one of the same shape; ``mask`` is read where windows are moved."""
        maps = maps + self._drop(self._attend(self.norm1(maps), mask))
        return maps + self._drop(self.mlp(self.norm2(maps)))

    def _attend(self, maps: Tensor, mask: Tensor | None) -> Tensor:
        height, width = maps.shape[1:3]
        # Padded before they are rolled, and no mask hides the padding: zeros, whose keys and values
        # are the biases, are seen like any pixel. Published weights were trained so.
        maps = pad_to_multiple(maps, self.window_size)
        padded = maps.shape[1:3]
        if self.shift:
            maps = maps.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = split_windows(maps, self.window_size)
        windows = self.attn(windows, mask if self.shift else None)
        maps = join_windows(windows, self.window_size, *padded)
        if self.shift:
            maps = maps.roll((self.shift, self.shift), dims=(1, 2))
        return maps[:, :height, :width]

    def _drop(self, branch: Tensor) -> Tensor:
        return leave_out(branch, self.drop_path_rate) if self.training else branch
