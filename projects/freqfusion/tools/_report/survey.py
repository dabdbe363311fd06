"""What the fusion modules of a model do to the images of a data set, in one pass over it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from freqfusion.analysis import (
    FusionPass,
    MeanResponse,
    MeanSpectrum,
    fusion_modules,
    record_fusions,
)
from freqfusion.analysis.responses import Filter
from freqfusion.drawing import Picture
from freqfusion.tools._feature_similarity.recording import covered_part
from freqfusion.tools._model import padded_sizes
from freqfusion.tools._visualize.predictor import Predictor
from freqfusion.tools._visualize.sources import Source, read_image

# Maps before and after a hop, by what the curves are called.
MAPS = ("fine, before", "fine, after", "coarse, repeated", "coarse, after")
# What is shown of each kind of kernels: what it lets through, and what it adds.
FILTERS: Mapping[str, Filter] = {"low-pass": "smoothing", "high-pass": "detail"}
SUMS = ("plain sum", "sum after fusion")


@dataclass(frozen=True)
class Example:
    """An image, and what the hops computed for it, without the padding."""

    name: str
    picture: Picture
    passes: dict[str, FusionPass]


class Survey:
    """Mean spectra, mean responses and a few examples, by hop in the order of the pass.

    ``titles`` are what the hops are called, by the names of their modules.

    Args:
        predictor: Runs the model.
        sources: Images.
        examples: How many are kept for drawing.

    Raises:
        ValueError: if the model has no fusion modules.
    """

    def __init__(self, predictor: Predictor, sources: Sequence[Source], examples: int) -> None:
        if not fusion_modules(predictor.model):
            raise ValueError("the model has no fusion module; maps are added or joined as they are")
        self.spectra: dict[str, dict[str, MeanSpectrum]] = {}
        self.sums: dict[str, dict[str, MeanSpectrum]] = {}
        self.responses: dict[str, dict[str, MeanResponse]] = {}
        self.examples: list[Example] = []
        self.images = 0
        self.titles: dict[str, str] = {}
        for source in sources:
            self._add(predictor, source, drawn=len(self.examples) < examples)

    def _add(self, predictor: Predictor, source: Source, *, drawn: bool) -> None:
        picture = read_image(source.path)
        found = fusions_of(predictor, picture)
        self.titles = self.titles or short_names(list(found))
        passes = {self.titles[name]: one for name, one in found.items()}
        for hop, one in passes.items():
            self._measure(hop, one)
        self.images += 1
        if drawn:
            self.examples.append(Example(source.path.name, picture, passes))

    def _measure(self, hop: str, one: FusionPass) -> None:
        maps = zip(MAPS, (one.hr_in, one.hr_out, one.lr_repeated, one.lr_out), strict=True)
        for name, features in maps:
            self.spectra.setdefault(hop, {}).setdefault(name, MeanSpectrum()).update(features)
        for name, features in zip(SUMS, one.sums() or (), strict=False):
            self.sums.setdefault(hop, {}).setdefault(name, MeanSpectrum()).update(features)
        responses = self.responses.setdefault(hop, {})
        for name, given in (("low-pass", one.lowpass), ("high-pass", one.highpass)):
            if given is not None:
                mean = responses.setdefault(name, MeanResponse(filter=FILTERS[name]))
                mean.update(given)


@torch.no_grad()
def fusions_of(predictor: Predictor, picture: Picture) -> dict[str, FusionPass]:
    """What the fusion modules compute for one image, on the CPU, cut to the part that is image."""
    inputs = predictor.inputs(picture)
    image = (int(inputs["image"].shape[-2]), int(inputs["image"].shape[-1]))
    with padded_sizes(predictor.model) as padded, record_fusions(predictor.model) as passes:
        predictor.model([inputs])
    whole = padded[-1] if padded else image
    return {name: _cut(one, image, whole) for name, one in passes.items()}


def _cut(one: FusionPass, image: tuple[int, int], whole: tuple[int, int]) -> FusionPass:
    changed: dict[str, Any] = {}
    for name, value in vars(one).items():
        if isinstance(value, Tensor):
            changed[name] = without_padding(value, covered_part(value, image, whole))
    return replace(one, **changed)


def without_padding(features: Tensor, covered: tuple[float, float]) -> Tensor:
    """The cells of a map (..., h, w) that show some of the image; float32 on the CPU."""
    rows, columns = (
        max(1, math.ceil(part * cells - 1e-6))
        for part, cells in zip(covered, features.shape[-2:], strict=True)
    )
    return features[..., :rows, :columns].float().cpu()


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of modules without the parts that all begin with, but never a number alone."""
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(own) > common + 1 and own[common] == parts[0][common] for own in parts):
        common += 1
    if common and any(own[common].isdigit() for own in parts):
        common -= 1
    return {name: ".".join(own[common:]) for name, own in zip(names, parts, strict=True)}
