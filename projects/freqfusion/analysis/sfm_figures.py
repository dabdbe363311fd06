"""Figures of Spatial Frequency Modulation: attention and sampling lattices over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freqfusion.analysis.figures import (
    image_panels,
    new_figure,
    panel_size,
)
from freqfusion.layers.sampling import lattice_points, lattice_points_of, to_pixels
from freqfusion.layers.sfm import Mapping, MappingStack, interpolate_at
from freqfusion.layers.sfm.displacement import spatial_softmax

_PANEL = 4.2
_OPACITY = 0.72

# More lines than this along an axis are thinned, so that the image stays visible.
_MOST_LINES = 40


def attention_figure(
    image: NDArray[np.uint8],
    stages: Sequence[tuple[str, MappingStack, Tensor]],
    *,
    covered: tuple[int, int] | None = None,
) -> Any:
    """Draw the image and the attention of each stage over it, one panel each.

    All panels share one scale, from the least to the greatest attention, on which 1 is even
    attention.

    Args:
        image: (height, width, 3), RGB.
        stages: For each its title, the stages before it, and the attention's logits (1, 1, H, W).
        covered: Height and width of the padded image that the maps cover; by default the image's.
    """
    from matplotlib.colors import LogNorm

    size = covered or (image.shape[0], image.shape[1])
    width, height = panel_size(image.shape, longest=_PANEL)
    figure = new_figure(width * (len(stages) + 1) + 0.7, height)
    axes = image_panels(figure, len(stages) + 1, len(stages) + 1)
    axes[0].imshow(image)
    axes[0].set_title("image", fontsize=9, loc="left")
    gray = image.astype(np.float32).mean(axis=-1).astype(np.uint8)
    seen = [attention_in_image(logits, before, size).numpy() for _, before, logits in stages]
    seen = [one[: image.shape[0], : image.shape[1]] for one in seen]
    # Even attention still needs a scale with an extent.
    low, high = min(one.min() for one in seen), max(one.max() for one in seen)
    low, high = min(low, 0.9), max(high, 1.1)
    for axis, (title, _, logits), attention in zip(axes[1:], stages, seen, strict=True):
        axis.imshow(gray, cmap="gray", vmin=0, vmax=255)
        drawn = axis.imshow(attention, cmap="inferno", norm=LogNorm(low, high), alpha=_OPACITY)
        rows, columns = logits.shape[-2:]
        axis.set_title(f"{title}: {rows} × {columns}", fontsize=9, loc="left")
    bar = figure.colorbar(drawn, ax=axes[-1], fraction=0.05, pad=0.03)
    bar.set_label("attention (1: even)", fontsize=8)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= tick <= high]
    bar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks], fontsize=8)
    bar.minorticks_off()
    return figure


@torch.no_grad()
def attention_in_image(logits: Tensor, before: MappingStack, size: tuple[int, int]) -> Tensor:
    """Return attention of mean one at each pixel of an image of ``size``: (height, width).

    Read where the pixel has gone in the attention's own space; for the first image of the batch.
    """
    attention = spatial_softmax(logits[:1])
    align = before[0].align_corners if before else False
    points = lattice_points(size, align, dtype=attention.dtype, device=attention.device)[None]
    return interpolate_at(attention, before.inverse(points), align_corners=align)[0, 0].cpu()


def lattice_figure(
    image: NDArray[np.uint8],
    stages: Sequence[tuple[str, MappingStack, Mapping]],
    *,
    covered: tuple[int, int] | None = None,
    most_lines: int = _MOST_LINES,
) -> Any:
    """Draw the sampling lattice of each stage over an image, one panel each.

    Lines connect neighboring samples; where they lie close, the map has been stretched. All are
    brought to the image's own space through the stages before.

    Args:
        image: (height, width, 3), RGB.
        stages: For each its title, the stages before it, and its own mapping; of the first image
            of their batch.
        covered: Height and width of the padded image that the maps cover; by default the image's.
        most_lines: Of more lines along an axis, every second (third, ...) is drawn.
    """
    from matplotlib.collections import LineCollection

    size = covered or (image.shape[0], image.shape[1])
    width, height = panel_size(image.shape, longest=_PANEL)
    figure = new_figure(width * len(stages), height)
    axes = image_panels(figure, len(stages), len(stages))
    for axis, (title, before, mapping) in zip(axes, stages, strict=True):
        nodes = lattice_nodes(before, mapping, size).numpy()
        rows, columns = nodes.shape[:2]
        step = -(-max(rows, columns) // most_lines)
        lines = [*nodes[step // 2 :: step], *nodes[:, step // 2 :: step].swapaxes(0, 1)]
        axis.imshow(_faded(image), extent=(-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5))
        axis.add_collection(LineCollection(lines, colors="#0b3d66", linewidths=0.6))
        axis.set_xlim(-0.5, image.shape[1] - 0.5)
        axis.set_ylim(image.shape[0] - 0.5, -0.5)
        every = "" if step == 1 else f", 1 line in {step}"
        axis.set_title(f"{title}: {rows} × {columns} samples{every}", fontsize=9, loc="left")
    return figure


@torch.no_grad()
def lattice_nodes(before: MappingStack, mapping: Mapping, size: tuple[int, int]) -> Tensor:
    """Return where a modulated map's samples lie in the image: (H, W, 2), x then y, in pixels.

    Of the first image of the batch. The finest map is laid over the image of ``size`` (height,
    width) edge to edge, as the supervision of the attention does.
    """
    points = lattice_points_of(mapping.displacement, mapping.size, mapping.align_corners)
    points = before.forward(mapping.forward_points(points))
    return to_pixels(points[0], size, mapping.align_corners).cpu()


def _faded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a lighter image, so that dark lines are seen over it."""
    return np.asarray(255 - (255 - image.astype(np.float32)) * 0.55).astype(np.uint8)
