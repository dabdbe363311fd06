"""Figures of spectra, responses, maps of numbers and offsets: matplotlib Figures.

They have no part in pyplot's global state; the caller saves them, and they need no closing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from freqfusion.analysis.spectra import Response, Spectrum, radial_power_spectrum

# Okabe and Ito's colors, which can be told apart with any color vision.
BLACK, BLUE, ORANGE = "#000000", "#0072B2", "#D55E00"
SOFT = "#6b6b73"

_MAP_COLUMNS = 4
_MAP_WIDTH = 3.2
# Room for the color bar of a panel.
_BAR = 0.5
_ARROWS = 24
# Okabe and Ito's colors, which can be told apart with any color vision, and dashes for gray.
_STYLES = (
    ("#0072B2", "-"),
    ("#D55E00", "-"),
    ("#56B4E9", "--"),
    ("#E69F00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
)
_COLUMNS = 3
_PANEL = (3.5, 2.9)
Curve = TypeVar("Curve")
_LAYER_STYLES = ((BLACK, "-"), (BLUE, "-"), (ORANGE, "--"), ("#009E73", "-."))


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def image_panels(figure: Any, count: int, columns: int) -> list[Any]:
    """Return ``count`` axes for images in rows of ``columns``, without ticks."""
    rows = math.ceil(count / columns)
    axes: list[Any] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[count:]:
        axis.set_axis_off()
    return axes[:count]


def quiet(axis: Any) -> None:
    """Leave the left and the lower line of a panel, in gray, and a faint grid."""
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color("#b8b8c0")
    axis.tick_params(labelsize=8, colors=SOFT, length=2.5)
    axis.grid(color="#e6e6ea", linewidth=0.7)
    axis.set_axisbelow(True)


def panel_size(shape: Sequence[int], *, longest: float) -> tuple[float, float]:
    """Return width and height in inches of a panel for an image and its title."""
    scale = longest / max(shape[0], shape[1])
    # Narrower than this, titles do not fit.
    return max(shape[1] * scale, 2.2), shape[0] * scale + 0.35


def maps_figure(image: ArrayLike, maps: Mapping[str, Tensor], *, label: str = "") -> Any:
    """Draw an image and maps (h, w) of any sizes beside it, in one range of colors.

    The range leaves the outermost hundredths out.

    Args:
        image: (H, W, 3); all panels have its shape.
        maps: By the title of their panel.
        label: What the colors stand for, with the unit.

    Raises:
        ValueError: if there is no map.
    """
    if not maps:
        raise ValueError("there is nothing to draw: give at least one map")
    picture = np.asarray(image)
    arrays = {name: one.detach().float().cpu().numpy() for name, one in maps.items()}
    figure, axes = _grid(picture.shape, 1 + len(arrays))
    axes[0].imshow(picture)
    axes[0].set_title("image", fontsize=9, loc="left")
    low, high = _range([*arrays.values()])
    extent = (-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5)
    for axis, (name, array) in zip(axes[1:], arrays.items(), strict=True):
        shown = axis.imshow(array, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        axis.set_title(name, fontsize=9, loc="left")
    _bar(figure, axes, shown, label)
    return figure


def offsets_figure(image: ArrayLike, offsets: Mapping[str, Tensor]) -> Any:
    """Draw where a sampler reads: arrows over the image, colored by length.

    An arrow starts at the pixel and points to where its value is read; it is the mean over the
    groups of channels, thinned, and drawn longer than it is by the factor in the panel's title.

    Args:
        image: (H, W, 3).
        offsets: (2, groups, h, w) in pixels of their map, x first, by the title of their panel.

    Raises:
        ValueError: if there are no offsets, or they have another shape.
    """
    if not offsets:
        raise ValueError("there is nothing to draw: give at least one field of offsets")
    picture = np.asarray(image)
    figure, axes = _grid(picture.shape, len(offsets))
    for axis, (name, field) in zip(axes, offsets.items(), strict=True):
        if field.dim() != 4 or field.shape[0] != 2:
            raise ValueError(
                f"offsets must be (2, groups, height, width), x first; got {tuple(field.shape)}"
            )
        axis.imshow(picture, alpha=0.55)
        mean = field.detach().float().cpu().mean(dim=1).numpy()
        shown, factor = _arrows(axis, mean, picture.shape)
        axis.set_title(f"{name}: arrows, length × {factor:.2g}", fontsize=9, loc="left")
        _bar(figure, axis, shown, "pixels of the map")
    return figure


def _arrows(axis: Any, field: Any, size: tuple[int, ...]) -> tuple[Any, float]:
    """Draw a field (2, h, w) thinned; the arrows, and the factor of their lengths."""
    _, rows, columns = field.shape
    step = max(1, math.ceil(max(rows, columns) / _ARROWS))
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


def _grid(size: tuple[int, ...], count: int) -> tuple[Any, list[Any]]:
    columns = min(_MAP_COLUMNS, count)
    width, height = panel_size(size, longest=_MAP_WIDTH)
    figure = new_figure((width + _BAR) * columns, height * math.ceil(count / columns))
    return figure, image_panels(figure, count, columns)


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


def spectra_figure(
    panels: Mapping[str, Mapping[str, Spectrum]],
    *,
    limits: Mapping[str, float] | None = None,
) -> Any:
    """Draw power over frequency on a logarithmic axis.

    Args:
        panels: Spectra by panel and by name; a name has the same color in all panels.
        limits: By panel, the highest frequency that the strided layer behind the map keeps; what
            lies right of it will be folded.

    Raises:
        ValueError: if there is nothing to draw.
    """

    def draw(axis: Any, name: str, curve: Spectrum, color: str, dashes: str) -> None:
        power = np.where(curve.power.numpy() > 0, curve.power.numpy(), np.nan)
        axis.plot(curve.frequencies, power, color=color, linestyle=dashes, label=name, lw=1.6)
        axis.set_yscale("log")

    figure = _panels(panels, draw, ylabel="mean power")
    for axis, place in zip(figure.axes, panels, strict=False):
        if limits and place in limits:
            _shade_folded(axis, limits[place])
    return figure


def _shade_folded(axis: Any, limit: float) -> None:
    """Mark the frequencies that a strided layer folds; the text is on the side that has room."""
    axis.axvspan(limit, 0.5, color="#f3efe6", zorder=0)
    axis.axvline(limit, color=SOFT, linewidth=0.9, linestyle=":")
    is_high = limit > 0.3
    axis.text(
        limit + (-0.006 if is_high else 0.006),
        0.97,
        f"folded above {limit:.3g}",
        transform=axis.get_xaxis_transform(),
        fontsize=7.5,
        color=SOFT,
        va="top",
        ha="right" if is_high else "left",
    )


def responses_figure(panels: Mapping[str, Mapping[str, Response]]) -> Any:
    """Draw the mean response over frequency, with one standard deviation of the pixels.

    The dotted line at one is what leaves the map as it is. ``panels`` are responses by panel and
    by name; a name has the same color in all panels.

    Raises:
        ValueError: if there is nothing to draw.
    """

    def draw(axis: Any, name: str, curve: Response, color: str, dashes: str) -> None:
        mean, spread = curve.mean.numpy(), curve.deviation.numpy()
        axis.fill_between(curve.frequencies, mean - spread, mean + spread, color=color, alpha=0.15)
        axis.plot(curve.frequencies, mean, color=color, linestyle=dashes, label=name, lw=1.6)
        axis.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")

    return _panels(panels, draw, ylabel="response")


def _panels(
    panels: Mapping[str, Mapping[str, Curve]],
    draw: Callable[[Any, str, Curve, str, str], None],
    *,
    ylabel: str,
) -> Any:
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    if not names:
        raise ValueError("there is nothing to draw: give at least one panel with one curve")
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = max(_PANEL[0] * columns, 5.0)
    figure = new_figure(width, _PANEL[1] * rows + 0.3 * math.ceil(len(names) / columns) + 0.3)
    # The same range everywhere: panels are there to be compared.
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis, (place, curves) in zip(axes, panels.items(), strict=False):
        for name, curve in curves.items():
            draw(axis, name, curve, *_STYLES[names.index(name) % len(_STYLES)])
        axis.set_title(place, fontsize=9, loc="left")
        axis.set_xlim(0, 0.5)
        axis.set_xlabel("frequency (cycles per sample)", fontsize=8, color=SOFT)
        axis.tick_params(labelleft=True)
        quiet(axis)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    figure.supylabel(ylabel, fontsize=9, color=SOFT)
    handles: dict[str, Any] = {}
    for axis in axes:
        lines, said = axis.get_legend_handles_labels()
        handles |= dict(zip(said, lines, strict=True))
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=min(len(names), 2 * columns),
        frameon=False,
        fontsize=9,
    )
    return figure


@dataclass(frozen=True)
class LayerSpectrum:
    """Power density (bins,) of a map over ``frequencies`` (bins,) in cycles per image pixel.

    Relative to the map's variance, so that layers of any scale can be compared: summed over all
    frequencies of the plane it gives one.
    """

    title: str
    frequencies: Tensor
    density: Tensor


@torch.no_grad()
def layer_spectrum(title: str, features: Tensor, stride: float) -> LayerSpectrum:
    """Return the spectrum of one map (C, h, w) with ``stride`` image pixels for each cell.

    A constant map has a density of nan everywhere.
    """
    maps = features[None].double()
    frequencies, power = radial_power_spectrum(maps)
    variance = maps.var(dim=(-2, -1), correction=0).mean()
    density = power[0] * stride**2 / variance
    return LayerSpectrum(title, (frequencies / stride).cpu(), density.cpu())


def layer_spectrum_figure(layers: Sequence[LayerSpectrum]) -> Any:
    """Draw the spectra over each other, both axes logarithmic.

    A line ends at the highest frequency that its layer can hold. Rings without power are left out.
    """
    figure = new_figure(5.6, 4.2)
    axis = figure.subplots()
    drawn = False
    for place, layer in enumerate(layers):
        color, dashes = _LAYER_STYLES[place % len(_LAYER_STYLES)]
        shown = layer.density.isfinite() & (layer.density > 0)
        drawn |= bool(shown.any())
        title = layer.title if shown.any() else f"{layer.title} (constant)"
        values = layer.frequencies[shown], layer.density[shown]
        axis.plot(*values, color=color, linestyle=dashes, linewidth=2, label=title)
    if drawn:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(_fraction)
        axis.xaxis.set_minor_formatter("")
    quiet(axis)
    axis.tick_params(labelsize=10)
    axis.set_xlabel("frequency, cycles per pixel of the model's input", fontsize=10.5, color=SOFT)
    axis.set_ylabel("power density / variance of the map", fontsize=10.5, color=SOFT)
    axis.legend(frameon=False, fontsize=10.5)
    return figure


def _fraction(frequency: float, _: int) -> str:
    return f"1/{1 / frequency:.3g}" if frequency > 0 else "0"
