"""Spectra of several layers of one image, on the frequencies of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freqfusion.analysis.canvas import BLACK, BLUE, ORANGE, SOFT, new_figure, quiet
from freqfusion.analysis.spectra import radial_power_spectrum

_STYLES = ((BLACK, "-"), (BLUE, "-"), (ORANGE, "--"), ("#009E73", "-."))


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
    """The spectrum of one map (C, h, w) with ``stride`` image pixels for each cell.

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
        color, dashes = _STYLES[place % len(_STYLES)]
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
