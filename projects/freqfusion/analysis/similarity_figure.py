"""Similarity maps of several layers and models beside the image and its ground truth."""

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
Maps = Mapping[str, Mapping[str, SimilarityMaps]]

_PANEL = 2.6  # width in inches
_VOID_COLOR = (128, 128, 128)
_LETTER = 0.075  # width of a letter of a caption in inches
_MAX_LEGEND = 12


def similarity_figure(
    image: Picture,
    gt: Picture,
    maps: Maps,
    *,
    classes: Mapping[str, Color] | None = None,
    title: str = "",
) -> Any:
    """Draw how near each pixel is to its class, layer by layer and model by model.

    The left column is the image and its ground truth; then a column for each layer, with a row for
    each model: above, the similarity of each pixel to the center of its class; below, the margin to
    the nearest other center, which is negative (red) where the pixel is nearer to another class.
    All panels of a kind have one scale. Ignored pixels are gray.

    Args:
        image: (H, W, 3).
        gt: (H, W, 3), the label map in the colors of its classes.
        maps: By model, by layer; models may have different layers.
        classes: Names and colors for the legend, of which a dozen are shown.
        title: Over the figure.

    Returns:
        A figure of its own, which the caller saves; nothing is shown and no global state changes.
    """
    layers = list(dict.fromkeys(layer for one in maps.values() for layer in one))
    if not layers:
        raise ValueError("there are no maps to draw: give at least one model with one layer")
    height = _PANEL * image.shape[0] / image.shape[1]
    rows, columns = 2 * len(maps), 1 + len(layers)
    figure = new_figure(_PANEL * columns + 1.3, (height + 0.5) * rows + 0.6 + 0.3 * bool(title))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    every = [one for of_model in maps.values() for one in of_model.values()]
    legend = dict(list((classes or {}).items())[:_MAX_LEGEND])
    if legend and any(np.isnan(one.own).any() for one in every):
        legend["ignored"] = _VOID_COLOR
    _show_scene(axes[:, 0], image, gt, legend)
    for kind, (top, style) in enumerate(_styles(every)):
        part = axes[kind * len(maps) : (kind + 1) * len(maps), 1:]
        drawn = _show_kind(part, maps, layers, height, top, style)
        bar = figure.colorbar(drawn, ax=list(part.flat), fraction=0.05, pad=0.01, aspect=30)
        bar.set_label(_wrapped(top, height * len(maps)), fontsize=9)
        bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _styles(maps: Sequence[SimilarityMaps]) -> list[tuple[str, dict[str, Any]]]:
    """Return what each kind is called, and its colors with one scale for all panels."""
    own = _values([one.own for one in maps])
    margin = np.abs(_values([one.margin for one in maps]))
    low = math.floor(10 * float(np.percentile(own, 2))) / 10 if own.size else 0.0
    far = float(np.percentile(margin, 98)) if margin.size else 1.0
    far = max(far, 1e-3)
    return [
        ("similarity to the own class", {"cmap": "viridis", "vmin": min(low, 0.9), "vmax": 1}),
        ("margin to the nearest other class", {"cmap": "RdBu", "vmin": -far, "vmax": far}),
    ]


def _show_kind(
    axes: NDArray[Any],
    maps: Maps,
    layers: Sequence[str],
    height: float,
    kind: str,
    style: Mapping[str, Any],
) -> Any:
    """Draw the panels of one kind; return one of the images, for the color bar."""
    import matplotlib as mpl

    colors = mpl.colormaps[style["cmap"]].with_extremes(bad=_unit(_VOID_COLOR))
    drawn = None
    for row, (model, of_model) in zip(axes, maps.items(), strict=True):
        for axis, layer in zip(row, layers, strict=True):
            if layer not in of_model:
                continue
            one = of_model[layer]
            is_margin = kind.startswith("margin")
            values = one.margin if is_margin else one.own
            limits = {"vmin": style["vmin"], "vmax": style["vmax"]}
            drawn = axis.imshow(values, cmap=colors, interpolation="nearest", **limits)
            note = _error_note(one) if is_margin else _mean_note(one)
            axis.set_title(f"{_wrapped(layer, _PANEL)}\n{note}", fontsize=8.5)
        row[0].set_ylabel(_wrapped(model, height), fontsize=9)
    return drawn


def _show_scene(
    axes: NDArray[Any], image: Picture, gt: Picture, legend: Mapping[str, Color]
) -> None:
    from matplotlib.patches import Patch

    for axis, picture, name in zip(axes, (image, gt), ("image", "ground truth"), strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(name, fontsize=8.5)
    handles = [Patch(color=_unit(color), label=name) for name, color in legend.items()]
    if not handles:
        return
    # Under the ground truth, or beside nothing in the free rows of further models.
    free = len(axes) > 2
    place = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.0 if free else -0.02)}
    axes[2 if free else 1].legend(
        handles=handles, ncols=2, fontsize=7.5, frameon=False, borderaxespad=0, **place
    )


def _wrapped(text: str, inches: float) -> str:
    return textwrap.fill(text, max(8, int(inches / _LETTER)))


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


def _values(images: Sequence[FloatArray]) -> FloatArray:
    values = np.concatenate([image.ravel() for image in images])
    present: FloatArray = values[~np.isnan(values)]
    return present
