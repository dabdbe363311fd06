"""Spectra of the maps that enter strided layers, with the frequency that these keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from freqfusion.analysis.aliasing import Version
from freqfusion.analysis.canvas import BLACK, BLUE, ORANGE, SOFT, image_panels, new_figure, quiet

_STYLES: dict[Version, tuple[str, str, str]] = {
    "plain": (BLACK, "-", "plain"),
    "modulated": (BLUE, "-", "modulated"),
    "control": (ORANGE, "--", "control: same operator, unrelated places"),
}
_PANEL = (3.9, 3.1)


@dataclass(frozen=True)
class StageSpectra:
    """Power (bins,) of the versions of one map over ``frequencies`` (bins,) in cycles per sample.

    ``f_nyquist`` is the highest frequency that the layer behind it keeps.
    """

    title: str
    frequencies: Tensor
    power: Mapping[Version, Tensor]
    f_nyquist: float


def spectrum_figure(stages: Sequence[StageSpectra]) -> Any:
    """Draw the power of each stage's map in its versions, on a logarithmic scale, one panel each.

    The power is the mean over a square ring of frequencies, as the aliasing ratio counts them;
    rings without any are left out. What lies right of the line will be folded.
    """
    columns = min(len(stages), 3)
    rows = -(-len(stages) // columns)
    figure = new_figure(_PANEL[0] * columns, _PANEL[1] * rows + 0.3)
    axes = image_panels(figure, len(stages), columns)
    for axis, stage in zip(axes, stages, strict=True):
        _draw(axis, stage)
    axes[0].set_ylabel("power (white noise of variance 1: 1)", fontsize=8, color=SOFT)
    figure.supxlabel("frequency, cycles per sample", fontsize=9, color=SOFT)
    handles: dict[str, Any] = {}
    for axis in axes:
        lines, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, lines, strict=True))
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper left",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    return figure


def _draw(axis: Any, stage: StageSpectra) -> None:
    for version, power in stage.power.items():
        color, dashes, label = _STYLES[version]
        # Silence has no logarithm.
        shown = power.isfinite() & (power > 0)
        axis.plot(
            stage.frequencies[shown].cpu(),
            power[shown].cpu(),
            color=color,
            linestyle=dashes,
            linewidth=1.5,
            label=label,
        )
    axis.set_title(stage.title, fontsize=9, loc="left")
    axis.set_xlim(0, 0.5)
    axis.set_xticks([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    if any(bool((power > 0).any()) for power in stage.power.values()):
        axis.set_yscale("log")
        _tick_powers(axis.yaxis)
    quiet(axis)
    axis.axvspan(stage.f_nyquist, 0.5, color="#f3efe6", zorder=0)
    axis.axvline(stage.f_nyquist, color=SOFT, linewidth=0.9, linestyle=":")
    # On the side that has room.
    is_high = stage.f_nyquist > 0.3
    axis.text(
        stage.f_nyquist + (-0.006 if is_high else 0.006),
        0.97,
        f"folded above {stage.f_nyquist:.3g}",
        transform=axis.get_xaxis_transform(),
        fontsize=7.5,
        color=SOFT,
        va="top",
        ha="right" if is_high else "left",
    )


def _tick_powers(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5 of a decade, at decades only where there are many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 300 * low else (1,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
