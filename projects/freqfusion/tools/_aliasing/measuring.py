"""Aliasing of a model, image by image: ratios, spectra and correlations per stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from freqfusion.analysis.aliasing import (
    MeasureOptions,
    Version,
    attention_edge_correlation,
    measure_stage,
)
from freqfusion.analysis.running import RunningMean
from freqfusion.layers.sfm import warp_edge_target
from freqfusion.tools._aliasing.inputs import Item, edges_of
from freqfusion.tools._aliasing.places import Pass, Place, Places, recorded

# Scalars of a stage.
QUANTITIES = ("plain", "modulated", "control", "modulated / plain", "modulated / control", "edges")
_MOST_BINS = 64
_STILL = 1e-4


@dataclass
class StageResult:
    """What has been measured at one place so far.

    Attributes:
        place: Where.
        f_nyquist: What counts as above.
        values: Means over the images, by ``QUANTITIES``; nan for what there is not.
        spectra: Means of the spectra over ``frequencies``, by version.
        sizes: Height and width of the maps.
        furthest: Greatest displacement of a sample, in pixels of the map.
    """

    place: Place
    f_nyquist: float
    values: dict[str, RunningMean] = field(
        default_factory=lambda: {name: RunningMean() for name in QUANTITIES}
    )
    spectra: dict[Version, RunningMean] = field(default_factory=dict)
    frequencies: Tensor = field(default_factory=lambda: torch.zeros(0))
    sizes: set[tuple[int, int]] = field(default_factory=set)
    furthest: float = 0.0


class AliasingMeter:
    """Runs a model on one image at a time and measures each of its downsampling steps.

    Args:
        model: In evaluation mode.
        places: Its steps.
        options: How maps are resampled and measured.
        ignore_value: Of semantic labels.
        equivalent: Count frequencies above half of the equivalent sampling rate, instead of above
            half of the sampling rate behind the stride.
    """

    def __init__(
        self,
        model: Callable[[list[dict[str, Any]]], Any] | nn.Module,
        places: Places,
        *,
        options: MeasureOptions,
        ignore_value: int = 255,
        equivalent: bool = False,
    ) -> None:
        self.model, self.places, self.options = model, places, options
        self.ignore_value = ignore_value
        self.images = 0
        self.stages = {
            place.point.feature: StageResult(place, place.highest_kept(equivalent=equivalent))
            for place in places.steps
        }

    @property
    def is_still(self) -> bool:
        """Whether the model has attention, but no sample of any image has been moved by it."""
        moved = [stage.furthest for stage in self.stages.values()]
        return self.places.modulated is not None and max(moved) < _STILL

    @torch.no_grad()
    def __call__(self, item: Item) -> tuple[Pass, tuple[int, int]]:
        """Run and measure one image; what the model did, and the size that its maps cover."""
        with recorded(self.places) as seen:
            self.model([item.inputs])
        point = self.places.steps[0].point
        rows, columns = seen.maps[point.feature].shape[-2:]
        covered = rows * point.stride, columns * point.stride
        truth = edges_of(item, covered, self.ignore_value) if seen.own else None
        for name, stage in self.stages.items():
            self._measure(name, stage, seen, item.size)
            if truth is not None and name in seen.own:
                self._correlate(name, stage, seen, truth)
        self.images += 1
        return seen, covered

    def _measure(self, name: str, stage: StageResult, seen: Pass, image: tuple[int, int]) -> None:
        maps, stride = seen.maps[name], stage.place.point.stride
        valid = (-(-image[0] // stride), -(-image[1] // stride))
        valid = min(valid[0], maps.shape[-2]), min(valid[1], maps.shape[-1])
        own = seen.own.get(name)
        bins = len(stage.frequencies) or _bins(valid, stage.place.point.geometry.stride)
        found = measure_stage(
            maps,
            own[1] if own else None,
            f_nyquist=stage.f_nyquist,
            bins=bins,
            valid=valid,
            options=self.options,
        )
        stage.frequencies = found.frequencies.cpu()
        stage.sizes.add(valid)
        ratios = {version: ratio.item() for version, ratio in found.ratios.items()}
        for version, power in found.spectra.items():
            stage.spectra.setdefault(version, RunningMean()).update(power[0])
            stage.values[version].update(ratios[version])
        for other in ("plain", "control"):
            if "modulated" in ratios and ratios[other] > 0:
                stage.values[f"modulated / {other}"].update(ratios["modulated"] / ratios[other])
        if own:
            stage.furthest = max(stage.furthest, own[0].displacement.abs().max().item())

    def _correlate(
        self, name: str, stage: StageResult, seen: Pass, truth: tuple[Tensor, Tensor]
    ) -> None:
        logits = seen.own[name][1].logits
        size, before = (logits.shape[-2], logits.shape[-1]), seen.stacks[name]
        edges, ignored = (warp_edge_target(one.to(logits.device), size, before) for one in truth)
        found = attention_edge_correlation(logits, edges, ignored < 0.5)
        stage.values["edges"].update(found.item())


def _bins(size: tuple[int, int], stride: int) -> int:
    """As many rings as a map fills, with the border of two of them on the Nyquist frequency."""
    most = min(max(min(size) // 2, 1), _MOST_BINS)
    return max(most // stride * stride, stride)
