"""Similarity maps of several layers beside the image and its ground truth."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqfusion.analysis.figures import new_figure
from freqfusion.analysis.running import FloatArray
from freqfusion.analysis.similarity import SimilarityMaps

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]

_PANEL = 2.6  # width in inches
_VOID_COLOR = (128, 128, 128)
_LETTERS = 34  # of a caption in a line
_MAX_LEGEND = 12


def similarity_figure(
    image: Picture,
    gt: Picture,
    maps: Mapping[str, SimilarityMaps],
    *,
    classes: Mapping[str, Color] | None = None,
    title: str = "",
) -> Any:
    """Draw how near each pixel is to its class, layer by layer.

    The left column is the image and its ground truth; then a column for each layer: above, the
    similarity of each pixel to the center of its class; below, the margin to the nearest other
    center, which is negative (red) where the pixel is nearer to another class. All panels of a row
    have one scale. Ignored pixels are gray.

    Args:
        image: (H, W, 3).
        gt: (H, W, 3), the label map in the colors of its classes.
        maps: By layer.
        classes: Names and colors for the legend, of which a dozen are shown.
        title: Over the figure.

    Returns:
        A figure of its own, which the caller saves; nothing is shown and no global state changes.
    """
    if not maps:
        raise ValueError("there are no maps to draw: give at least one layer")
    columns, height = 1 + len(maps), _PANEL * image.shape[0] / image.shape[1]
    figure = new_figure(_PANEL * columns + 1.3, 2 * (height + 0.5) + 0.6 + 0.3 * bool(title))
    axes = figure.subplots(2, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    legend = dict(list((classes or {}).items())[:_MAX_LEGEND])
    if legend and any(np.isnan(one.own).any() for one in maps.values()):
        legend["ignored"] = _VOID_COLOR
    _show_scene(axes[:, 0], image, gt)
    _show_legend(figure, legend, columns)
    own = {name: one.own for name, one in maps.items()}
    low = math.floor(10 * _percentile(own, 2, 0.0)) / 10
    notes = [_mean_note(one) for one in maps.values()]
    _show_row(
        figure,
        axes[0, 1:],
        own,
        notes,
        "viridis",
        (min(low, 0.9), 1),
        "similarity to\nthe own class",
    )
    margin = {name: one.margin for name, one in maps.items()}
    far = max(_percentile({name: np.abs(one) for name, one in margin.items()}, 98, 1.0), 1e-3)
    notes = [_error_note(one) for one in maps.values()]
    _show_row(
        figure,
        axes[1, 1:],
        margin,
        notes,
        "RdBu",
        (-far, far),
        "margin to the\nnearest other class",
    )
    figure.suptitle(title or None, fontsize=11)
    return figure


def _show_row(
    figure: Any,
    axes: Sequence[Any],
    images: Mapping[str, FloatArray],
    notes: Sequence[str],
    cmap: str,
    limits: tuple[float, float],
    label: str,
) -> None:
    """Draw a panel for each layer, and a bar of the colors."""
    import matplotlib as mpl

    colors = mpl.colormaps[cmap].with_extremes(bad=_unit(_VOID_COLOR))
    for axis, (layer, values), note in zip(axes, images.items(), notes, strict=True):
        drawn = axis.imshow(
            values, cmap=colors, interpolation="nearest", vmin=limits[0], vmax=limits[1]
        )
        axis.set_title(f"{textwrap.fill(layer, _LETTERS)}\n{note}", fontsize=8.5)
    bar = figure.colorbar(drawn, ax=list(axes), fraction=0.05, pad=0.01, aspect=30)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def _show_scene(axes: NDArray[Any], image: Picture, gt: Picture) -> None:
    """Draw the image and its ground truth."""
    for axis, picture, name in zip(axes, (image, gt), ("image", "ground truth"), strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(name, fontsize=8.5)


def _show_legend(figure: Any, legend: Mapping[str, Color], panels: int) -> None:
    """Name the classes under all panels, where the names have the width of the figure."""
    from matplotlib.patches import Patch

    handles = [Patch(color=_unit(color), label=name) for name, color in legend.items()]
    if handles:
        columns = min(len(handles), 2 * panels)
        place = {"loc": "outside lower left", "ncols": columns}
        figure.legend(handles=handles, fontsize=7.5, frameon=False, **place)


def _unit(color: Color) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def _mean_note(maps: SimilarityMaps) -> str:
    values = maps.own[maps.measured]
    return f"mean {values.mean():.2f}" if values.size else "no pixel"


def _error_note(maps: SimilarityMaps) -> str:
    pixels = int(maps.measured.sum())
    if not pixels:
        return "no pixel"
    return f"{100 * maps.nearer_to_another.sum() / pixels:.1f} % nearer to another"


def _percentile(images: Mapping[str, FloatArray], share: float, default: float) -> float:
    """Return a percentile of all values but nan."""
    values = np.concatenate([image.ravel() for image in images.values()])
    present = values[~np.isnan(values)]
    return float(np.percentile(present, share)) if present.size else default
