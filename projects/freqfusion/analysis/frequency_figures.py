"""Figures of spectra and of filters' responses: one panel for each place, named lines in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from freqfusion.analysis.canvas import SOFT, new_figure, quiet
from freqfusion.analysis.mean_spectrum import Spectrum
from freqfusion.analysis.responses import Response

# Okabe and Ito's colours, which can be told apart with any colour vision, and dashes for grey.
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


def spectra_figure(panels: Mapping[str, Mapping[str, Spectrum]], *, title: str = "") -> Any:
    """Power over frequency on a logarithmic axis: a matplotlib Figure.

    ``panels`` are spectra by panel and by name; a name has the same colour in all panels.

    Raises:
        ValueError: if there is nothing to draw.
    """

    def draw(axis: Any, name: str, curve: Spectrum, color: str, dashes: str) -> None:
        power = np.where(curve.power.numpy() > 0, curve.power.numpy(), np.nan)
        axis.plot(curve.frequencies, power, color=color, linestyle=dashes, label=name, lw=1.6)
        axis.set_yscale("log")

    return _panels(panels, draw, ylabel="mean power", title=title)


def responses_figure(panels: Mapping[str, Mapping[str, Response]], *, title: str = "") -> Any:
    """Mean response over frequency, with one standard deviation of the pixels around it.

    The dotted line at one is what leaves the map as it is. ``panels`` are responses by panel and
    by name; a name has the same colour in all panels.

    Raises:
        ValueError: if there is nothing to draw.
    """

    def draw(axis: Any, name: str, curve: Response, color: str, dashes: str) -> None:
        mean, spread = curve.mean.numpy(), curve.deviation.numpy()
        axis.fill_between(curve.frequencies, mean - spread, mean + spread, color=color, alpha=0.15)
        axis.plot(curve.frequencies, mean, color=color, linestyle=dashes, label=name, lw=1.6)
        axis.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")

    return _panels(panels, draw, ylabel="response", title=title)


def _panels(
    panels: Mapping[str, Mapping[str, Curve]],
    draw: Callable[[Any, str, Curve, str, str], None],
    *,
    ylabel: str,
    title: str,
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
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    return figure
