"""The figures of the aliasing tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from freqfusion.analysis.attention_figure import attention_figure
from freqfusion.analysis.lattice_figure import lattice_figure
from freqfusion.analysis.spectrum_figure import StageSpectra, spectrum_figure
from freqfusion.drawing import Picture
from freqfusion.tools._aliasing.measuring import AliasingMeter
from freqfusion.tools._aliasing.places import Pass

_DPI = 130


def write_image_figures(
    picture: Picture, seen: Pass, covered: tuple[int, int], stem: Path
) -> list[Path]:
    """``<stem>_attention.png`` and ``<stem>_lattice.png``; none for a model without modulation."""
    paths = []
    for kind, figure in image_figures(picture, seen, covered).items():
        paths.append(stem.with_name(f"{stem.name}_{kind}.png"))
        figure.savefig(paths[-1], dpi=_DPI)
    return paths


def image_figures(picture: Picture, seen: Pass, covered: tuple[int, int]) -> dict[str, Any]:
    """Figures of an image's ``attention`` and ``lattice``; none without modulation."""
    if not seen.own:
        return {}
    attention = [(name, seen.stacks[name], own[1].logits) for name, own in seen.own.items()]
    lattices = [(name, seen.stacks[name], own[0]) for name, own in seen.own.items()]
    return {
        "attention": attention_figure(picture, attention, covered=covered),
        "lattice": lattice_figure(picture, lattices, covered=covered),
    }


def write_spectra(meter: AliasingMeter, path: Path) -> Path:
    """Write the figure of ``stage_spectra``."""
    stage_spectra(meter).savefig(path, dpi=_DPI)
    return path


def stage_spectra(meter: AliasingMeter) -> Any:
    """The mean spectra of all stages: a matplotlib Figure."""
    stages = []
    for stage in meter.stages.values():
        shares = [f"{stage.values[version].mean.item():.1%}" for version in stage.spectra][:2]
        title = f"{stage.place.title}: {' → '.join(shares)} of the power above"
        power = {version: mean.mean for version, mean in stage.spectra.items()}
        stages.append(StageSpectra(title, stage.frequencies, power, stage.f_nyquist))
    return spectrum_figure(stages)
