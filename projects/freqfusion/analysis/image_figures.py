"""Figures over an image: maps of numbers, and the field of a sampler's offsets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from freqfusion.analysis.canvas import image_panels, new_figure, panel_size

_COLUMNS = 4
_WIDTH = 3.2
# Room for the colour bar of a panel.
_BAR = 0.5
_ARROWS = 24


def maps_figure(
    maps: Mapping[str, Tensor],
    *,
    image: ArrayLike | None = None,
    label: str = "",
    title: str = "",
    shared: bool = True,
) -> Any:
    """Maps (H, W) of any sizes side by side, with colour bars: a matplotlib Figure.

    Args:
        maps: By the title of their panel.
        image: (H, W, 3) to show before them; all panels have its shape, or the first map's.
        label: What the colours stand for, with the unit.
        title: Of the whole figure.
        shared: One range of colours for all of them; it leaves the outermost hundredths out.

    Raises:
        ValueError: if there is no map.
    """
    if not maps:
        raise ValueError("there is nothing to draw: give at least one map")
    arrays = {name: one.detach().float().cpu().numpy() for name, one in maps.items()}
    picture = None if image is None else np.asarray(image)
    size = next(iter(arrays.values())).shape if picture is None else picture.shape
    count = len(arrays) + (picture is not None)
    figure, axes = _grid(size, count, title)
    if picture is not None:
        axes[0].imshow(picture)
        axes[0].set_title("image", fontsize=9, loc="left")
    ranges = [*arrays.values()] if shared else None
    for axis, (name, array) in zip(axes[-len(arrays) :], arrays.items(), strict=True):
        low, high = _range(ranges or [array])
        shown = axis.imshow(
            array, vmin=low, vmax=high, extent=_extent(size), interpolation="nearest"
        )
        axis.set_title(name, fontsize=9, loc="left")
        if not shared:
            _bar(figure, axis, shown, label)
    if shared:
        _bar(figure, axes, shown, label)
    return figure


def offsets_figure(
    image: ArrayLike, offsets: Mapping[str, Tensor], *, arrows: int = _ARROWS, title: str = ""
) -> Any:
    """Where a sampler reads: arrows over the image, coloured by length, and the lengths.

    An arrow starts at the pixel and points to where its value is read; it is the mean over the
    groups of channels, thinned to about ``arrows`` along the longer side, and drawn longer than it
    is by the factor in the panel's title. Lengths are means over the groups, in pixels of the map.

    Args:
        image: (H, W, 3).
        offsets: (2, groups, h, w) in pixels of their map, x first, by the title of their panel.
        arrows: See above.
        title: Of the whole figure.

    Raises:
        ValueError: if there are no offsets, or they have another shape.
    """
    if not offsets:
        raise ValueError("there is nothing to draw: give at least one field of offsets")
    picture = np.asarray(image)
    columns = 2 * min(len(offsets), 2)
    figure, axes = _grid(picture.shape, 2 * len(offsets), title, columns=columns)
    for row, (name, field) in enumerate(offsets.items()):
        if field.dim() != 4 or field.shape[0] != 2:
            raise ValueError(
                f"offsets must be (2, groups, height, width), x first; got {tuple(field.shape)}"
            )
        precise = field.detach().float().cpu()
        length = torch.linalg.vector_norm(precise, dim=0).mean(dim=0).numpy()
        left, right = axes[2 * row], axes[2 * row + 1]
        left.imshow(picture, alpha=0.55)
        shown, factor = _arrows(left, precise.mean(dim=1).numpy(), picture.shape, arrows)
        left.set_title(f"{name}: arrows, length × {factor:.2g}", fontsize=9, loc="left")
        _bar(figure, left, shown, "pixels of the map")
        low, high = _range([length])
        lengths = right.imshow(
            length, vmin=low, vmax=high, extent=_extent(picture.shape), interpolation="nearest"
        )
        right.set_title(f"{name}: length", fontsize=9, loc="left")
        _bar(figure, right, lengths, "pixels of the map")
    return figure


def _arrows(axis: Any, field: Any, size: tuple[int, ...], arrows: int) -> tuple[Any, float]:
    """Draw a field (2, h, w) thinned; the arrows, and the factor of their lengths."""
    _, rows, columns = field.shape
    step = max(1, math.ceil(max(rows, columns) / arrows))
    down = np.arange(min(step // 2, rows - 1), rows, step)
    across = np.arange(min(step // 2, columns - 1), columns, step)
    # Cell means, so that an arrow speaks for its surroundings and noise does not look like flow.
    thin = torch.nn.functional.avg_pool2d(
        torch.from_numpy(field)[None], step, ceil_mode=True, count_include_pad=False
    )[0].numpy()[:, : len(down), : len(across)]
    pixel = np.array([size[1] / columns, size[0] / rows])
    lengths = np.hypot(*thin)
    longest = max(float(np.quantile(lengths, 0.98)), 1e-6)
    factor = 0.9 * step / longest
    moved = thin * factor * pixel[:, None, None]
    x, y = np.meshgrid((across + 0.5) * pixel[0] - 0.5, (down + 0.5) * pixel[1] - 0.5)
    drawn = axis.quiver(
        x, y, *moved, lengths,
        angles="xy", scale_units="xy", scale=1, width=0.005, headwidth=3.5, cmap="plasma",
        edgecolor="#00000066", linewidth=0.2,
    )  # fmt: skip
    axis.set_xlim(-0.5, size[1] - 0.5)
    axis.set_ylim(size[0] - 0.5, -0.5)
    return drawn, factor


def _grid(
    size: tuple[int, ...], count: int, title: str, columns: int = _COLUMNS
) -> tuple[Any, list[Any]]:
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width, height = panel_size(size, longest=_WIDTH)
    figure = new_figure((width + _BAR) * columns, height * rows + (0.3 if title else 0))
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure, image_panels(figure, count, columns)


def _extent(size: tuple[int, ...]) -> tuple[float, float, float, float]:
    return -0.5, size[1] - 0.5, size[0] - 0.5, -0.5


def _range(arrays: list[Any]) -> tuple[float, float]:
    values = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(one) for one in np.quantile(values, [0.01, 0.99]))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _bar(figure: Any, axis: Any, shown: Any, label: str) -> None:
    bar = figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.02, aspect=25, shrink=0.9)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    if label:
        bar.set_label(label, fontsize=7.5)
