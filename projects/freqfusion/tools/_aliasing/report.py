"""The numbers of the aliasing tool as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from freqfusion.analysis.running import RunningMean
from freqfusion.tools._aliasing.measuring import QUANTITIES, AliasingMeter, StageResult

_HEADS = {
    "plain": "plain",
    "modulated": "modulated",
    "control": "control",
    "modulated / plain": "mod / plain",
    "modulated / control": "mod / control",
    "edges": "attention-edges",
}
_NAMES = {
    "edges": "attention_edge_correlation",
    "modulated / plain": "modulated_over_plain",
    "modulated / control": "modulated_over_control",
}


def rows_of(meter: AliasingMeter) -> list[list[str]]:
    """A head, and a row for each stage: mean and standard deviation over the images."""
    shown = [name for name in QUANTITIES if _has(meter, name)]
    rows = [["stage", "size", *(_HEADS[name] for name in shown)]]
    for stage in meter.stages.values():
        cells = [_cell(stage.values[name]) for name in shown]
        rows.append([stage.place.title, _sizes(stage), *cells])
    return rows


def table(meter: AliasingMeter) -> str:
    """The rows as text, one line for each."""
    rows = rows_of(meter)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def footer(meter: AliasingMeter, *, equivalent: bool) -> list[str]:
    """What the numbers of the table mean, in sentences."""
    options = meter.options
    limit = "half of the equivalent sampling rate" if equivalent else "1 / (2 stride)"
    mean = "each channel's mean left out" if options.remove_dc else "with each channel's mean"
    spread = " (mean ± standard deviation over the images)" if meter.images > 1 else ""
    lines = [
        f"Share of the power in frequencies above {limit} in the map that enters the downsampling,"
        f" {mean}{spread}."
    ]
    if meter.places.modulated is None:
        return [*lines, "The model does not modulate its maps: there is nothing else to compare."]
    lines.append(
        f"control: resampled by the same attention at wrong places (mean of {options.rolls} rolls)."
    )
    if options.interpolation == "bilinear":
        lines.append(
            "Bilinear interpolation is itself a low-pass filter and lowers the ratio wherever"
            " samples move: compare with the control, not with plain."
        )
    else:
        lines.append(
            "Resampled bicubically, since bilinear interpolation (--interpolation bilinear, as the"
            " model resamples) is itself a low-pass filter; what it filters too, the control shows."
        )
    if _has(meter, "edges"):
        lines.append(
            "attention-edges: Pearson correlation of the attention with the edges of the labels."
        )
    if meter.is_still:
        lines.append(
            "The attention is even and moves no sample: it is untrained, or"
            " MODEL.SFM.STRENGTH is 0."
        )
    return lines


def summary(meter: AliasingMeter, settings: dict[str, Any]) -> dict[str, Any]:
    """All numbers, for ``aliasing.json``; None for what there is not."""
    stages = [_stage_summary(stage) for stage in meter.stages.values()]
    return {"settings": settings, "images": meter.images, "stages": stages}


def _stage_summary(stage: StageResult) -> dict[str, Any]:
    point = stage.place.point
    values = {_NAMES.get(name, name): _numbers(mean) for name, mean in stage.values.items()}
    power = {version: _listed(mean.mean.tolist()) for version, mean in stage.spectra.items()}
    return {
        "feature": point.feature,
        "becomes": stage.place.becomes,
        "module": point.path,
        "is_modulated": "modulated" in stage.spectra,
        "stride": point.geometry.stride,
        "sizes": sorted(stage.sizes),
        "f_nyquist": stage.f_nyquist,
        "largest_displacement": stage.furthest if "modulated" in stage.spectra else None,
        **values,
        "spectrum": {"frequencies": stage.frequencies.tolist(), **power},
    }


def _numbers(mean: RunningMean) -> dict[str, Any] | None:
    if not mean.count:
        return None
    found = _listed([mean.mean.item(), mean.deviation.item()])
    return {"mean": found[0], "deviation": found[1], "images": int(mean.count)}


def _listed(values: Sequence[float]) -> list[float | None]:
    """JSON has no nan."""
    return [value if math.isfinite(value) else None for value in values]


def _has(meter: AliasingMeter, name: str) -> bool:
    return any(bool(stage.values[name].count) for stage in meter.stages.values())


def _cell(mean: RunningMean) -> str:
    if not mean.count:
        return "-"
    spread = mean.deviation.item()
    return f"{mean.mean.item():.3f}" + ("" if math.isnan(spread) else f" ± {spread:.3f}")


def _sizes(stage: StageResult) -> str:
    ordered = sorted(stage.sizes, key=lambda size: (size[0] * size[1], size))
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    return " to ".join(f"{height}x{width}" for height, width in ends)
