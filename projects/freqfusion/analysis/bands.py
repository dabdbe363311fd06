"""Which pixels of a label map are measured, and which make the centres of the classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def split_pixels(labels: Tensor, edge_width: int, ignore_label: int) -> tuple[Tensor, Tensor]:
    """Masks of the measured pixels and of those that make centres, both (H, W).

    Without an edge width both are all labelled pixels. With one, the boundary is where the discrete
    Laplacian of the label map is not 0 (mirrored at the border), and the measured pixels are those
    within a square of ``edge_width`` pixels around it, less those as near to ignored ones. The
    centres are then made of all other labelled pixels, so that a class that lies on boundaries
    only has none.

    This is the band of the published numbers. A pixel between one of the next lower and one of the
    next higher label is no boundary of its own in it; its neighbours are.
    """
    if edge_width < 0:
        raise ValueError(
            f"edge_width must be 0 (all pixels) or a width in pixels, not {edge_width}"
        )
    labelled = labels != ignore_label
    if not edge_width:
        return labelled, labelled
    band = _widen(_laplacian(labels) != 0, edge_width) & ~_widen(~labelled, edge_width)
    return band, labelled & ~band


def _laplacian(labels: Tensor) -> Tensor:
    """Sum of the four neighbours less four times the pixel."""
    image = labels.long()
    total = -4 * image
    for axis in (0, 1):
        size = image.shape[axis]
        here = torch.arange(size, device=image.device)
        for step in (-1, 1):
            there = (here + step).abs()  # -1 is mirrored to 1
            there = torch.where(there < size, there, 2 * (size - 1) - there).clamp_min(0)
            total = total + image.index_select(axis, there)
    return total


def _widen(mask: Tensor, width: int) -> Tensor:
    """Whether the mask holds anywhere in a square around each pixel."""
    before, after = width // 2, width - 1 - width // 2
    image = F.pad(mask[None, None].float(), (before, after, before, after))
    wide: Tensor = F.max_pool2d(image, width, stride=1)[0, 0] > 0
    return wide
