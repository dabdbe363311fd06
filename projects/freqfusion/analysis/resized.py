"""A feature map at the size of a label map, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice

ResizeMode = Literal["bilinear", "nearest"]

# Values that are made at a time.
_PIECE = 2**22


class ResizedMap:
    """A map (C, h, w) as ``F.interpolate`` resizes it to (H, W), never whole in memory.

    Args:
        features: (C, h, w).
        size: (H, W).
        covered: The part of the map's height and width, from the top and the left, that the result
            shows: 1 but for a model whose input was padded below and on the right.
        mode: ``"bilinear"`` (corners not aligned) or ``"nearest"``.
    """

    def __init__(
        self,
        features: Tensor,
        size: tuple[int, int],
        covered: tuple[float, float] = (1.0, 1.0),
        mode: ResizeMode = "bilinear",
    ) -> None:
        check_choice(ResizeMode, mode=mode)
        if not all(0 < part <= 1 for part in covered):
            raise ValueError(f"covered must be two parts above 0 and up to 1, not {covered}")
        self.features, self.size = features, size
        places = zip(features.shape[1:], size, covered, strict=True)
        self._rows, self._columns = (
            _neighbours(before, after, part, mode, features.device)
            for before, after, part in places
        )

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """The rows of each piece, and the piece in float64: (C, rows * W)."""
        step = max(1, _PIECE // (len(self.features) * self.size[1]))
        for start in range(0, self.size[0], step):
            rows = slice(start, min(start + step, self.size[0]))
            upper, lower, share = (part[rows] for part in self._rows)
            piece = _between(self.features[:, upper], self.features[:, lower], share[:, None])
            left, right, share = self._columns
            yield rows, _between(piece[:, :, left], piece[:, :, right], share).flatten(1)


def _neighbours(
    before: int, after: int, part: float, mode: ResizeMode, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of each output pixel on an axis, and the share of the second."""
    step = before * part / after
    out = torch.arange(after, device=device, dtype=torch.float64)
    if mode == "nearest":
        first = (out * step).floor().long().clamp_max(before - 1)
        return first, first, torch.zeros_like(out)
    place = ((out + 0.5) * step - 0.5).clamp(0, before - 1)
    first = place.floor().long()
    return first, (first + 1).clamp_max(before - 1), place - first


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(first.double(), second.double(), share)
