"""Where the samples of each modulated map come from, drawn over the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freqfusion.analysis.canvas import image_panels, new_figure, panel_size
from freqfusion.layers.sfm import Mapping, MappingStack
from freqfusion.layers.sfm.coordinates import lattice_points_of, to_pixels

# More lines than this along an axis are thinned, so that the image stays visible.
_MOST_LINES = 40
_PANEL = 4.2


def lattice_figure(
    image: NDArray[np.uint8],
    stages: Sequence[tuple[str, MappingStack, Mapping]],
    *,
    covered: tuple[int, int] | None = None,
    most_lines: int = _MOST_LINES,
) -> Any:
    """Draw the sampling lattice of each stage over an image, one panel each.

    Lines connect neighbouring samples; where they lie close, the map has been stretched. All are
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
    """Where the samples of a modulated map lie in the image: (H, W, 2), x then y, in its pixels.

    Of the first image of the batch. The finest map is laid over the image of ``size`` (height,
    width) edge to edge, as the supervision of the attention does.
    """
    points = lattice_points_of(mapping.displacement, mapping.size, mapping.align_corners)
    points = before.forward(mapping.forward_points(points))
    return to_pixels(points[0], size, mapping.align_corners).cpu()


def _faded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lighter, so that dark lines are seen over it."""
    return np.asarray(255 - (255 - image.astype(np.float32)) * 0.55).astype(np.uint8)
