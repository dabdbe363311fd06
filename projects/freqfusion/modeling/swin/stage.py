"""A stage of Swin: blocks with windows in two places by turns."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from freqfusion.layers.windows import shift_mask
from freqfusion.modeling.swin.blocks import PatchMerging, SwinBlock


class SwinStage(nn.Module):
    """The blocks at one resolution, and the step to the next, which the caller takes."""

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path_rates: Sequence[float],
        downsample: bool,
        use_checkpoint: bool,
    ):
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(
            SwinBlock(
                channels=channels,
                num_heads=num_heads,
                window_size=window_size,
                shift=self.shift if index % 2 else 0,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_path_rate=rate,
            )
            for index, rate in enumerate(drop_path_rates)
        )
        self.downsample = PatchMerging(channels=channels) if downsample else None

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape, before the step to the next stage."""
        mask = self._mask(maps) if self.shift and len(self.blocks) > 1 else None
        for block in self.blocks:
            if self.use_checkpoint and torch.is_grad_enabled():
                maps = checkpoint(block, maps, mask, use_reentrant=False)
            else:
                maps = block(maps, mask)
        return maps

    def _mask(self, maps: Tensor) -> Tensor:
        height, width = (length + -length % self.window_size for length in maps.shape[1:3])
        return shift_mask(
            height,
            width,
            size=self.window_size,
            shift=self.shift,
            device=maps.device,
            dtype=maps.dtype,
        )
