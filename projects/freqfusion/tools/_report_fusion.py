"""What the fusion modules of a model do to the images of a data set, as sections of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freqfusion.analysis import (
    FusionPass,
    MeanResponse,
    MeanSpectrum,
    Spectrum,
    fusion_modules,
    generator_spectrum,
    kernel_response,
    maps_figure,
    offsets_figure,
    record_fusions,
    responses_figure,
    spectra_figure,
)
from freqfusion.analysis.spectra import Filter
from freqfusion.drawing import Picture
from freqfusion.layers import FreqFusion
from freqfusion.predictor import Predictor, padded_sizes
from freqfusion.tools._feature_similarity import covered_part, default_layers, record_maps
from freqfusion.tools._images import ImageSource, read_image
from freqfusion.tools._page import EmbeddedImage, ReportSection, from_figure, paragraphs

# Maps before and after a hop, by what the curves are called.
MAPS = ("fine, before", "fine, after", "coarse, repeated", "coarse, after")
# What is shown of each kind of kernels: what it lets through, and what it adds.
FILTERS: Mapping[str, Filter] = {"low-pass": "smoothing", "high-pass": "detail"}
SUMS = ("plain sum", "sum after fusion")

_HIGHEST = 0.5
# Figures of offsets and kernels are large; more of them tell little.
_MOST_EXAMPLES = 2


@dataclass(frozen=True)
class FusionExample:
    """An image, and what the hops computed for it, without the padding."""

    name: str
    picture: Picture
    passes: dict[str, FusionPass]


class FusionSurvey:
    """Mean spectra, mean responses and a few examples, by hop in the order of the pass.

    ``titles`` are what the hops are called, by the names of their modules.

    Args:
        predictor: Runs the model.
        sources: Images.
        examples: How many are kept for drawing.

    Raises:
        ValueError: if the model has no fusion modules.
    """

    def __init__(self, predictor: Predictor, sources: Sequence[ImageSource], examples: int) -> None:
        if not fusion_modules(predictor.model):
            raise ValueError("the model has no fusion module; maps are added or joined as they are")
        self.spectra: dict[str, dict[str, MeanSpectrum]] = {}
        self.sums: dict[str, dict[str, MeanSpectrum]] = {}
        self.responses: dict[str, dict[str, MeanResponse]] = {}
        self.examples: list[FusionExample] = []
        self.images = 0
        self.titles: dict[str, str] = {}
        for source in sources:
            self._add(predictor, source, drawn=len(self.examples) < examples)

    def _add(self, predictor: Predictor, source: ImageSource, *, drawn: bool) -> None:
        picture = read_image(source.path)
        found = fusions_of(predictor, picture)
        self.titles = self.titles or short_names(list(found))
        passes = {self.titles[name]: one for name, one in found.items()}
        for hop, one in passes.items():
            self._measure(hop, one)
        self.images += 1
        if drawn:
            self.examples.append(FusionExample(source.path.name, picture, passes))

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
    """Return what the fusion modules compute for one image, on the CPU, without the padding."""
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
    """Return the cells of a map (..., h, w) that show some of the image; float32 on the CPU."""
    rows, columns = (
        max(1, math.ceil(part * cells - 1e-6))
        for part, cells in zip(covered, features.shape[-2:], strict=True)
    )
    return features[..., :rows, :columns].float().cpu()


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return names of modules without the parts that all begin with, but never a number alone."""
    parts = [name.split(".") for name in names]
    common = 0
    while all(len(own) > common + 1 and own[common] == parts[0][common] for own in parts):
        common += 1
    if common and any(own[common].isdigit() for own in parts):
        common -= 1
    return {name: ".".join(own[common:]) for name, own in zip(names, parts, strict=True)}


@dataclass
class ReportContext:
    """A trained model and what it can be shown with.

    Attributes:
        config_file: Where the configuration comes from.
        cfg: The configuration, with its weights.
        predictor: The model as a function of an image.
        run: Output folder of the training, if one is given.
        dataset: Name of the data set.
        sources: Its images; none where the data set is not there.
        metadata: Of the data set.
        without_images: Why there are no images.
        examples: How many of the images are drawn.
        runs: Passes of which the time is taken.
    """

    config_file: str
    cfg: Any
    predictor: Predictor
    run: Path | None = None
    dataset: str = ""
    sources: list[ImageSource] = field(default_factory=list)
    metadata: Any = None
    without_images: str = ""
    examples: int = 3
    runs: int = 5
    _survey: FusionSurvey | None = None

    @property
    def model(self) -> torch.nn.Module:
        """Return the model, in evaluation mode."""
        model: torch.nn.Module = self.predictor.model
        return model

    def images(self) -> list[ImageSource]:
        """Return the images; ValueError with the reason where there are none."""
        if not self.sources:
            raise ValueError(self.without_images or "there are no images")
        return self.sources

    def survey(self) -> FusionSurvey:
        """Return what the fusion modules do to all images, measured when it is first asked for."""
        if self._survey is None:
            self._survey = FusionSurvey(self.predictor, self.images(), self.examples)
        return self._survey


def spectra(context: ReportContext) -> ReportSection:
    """Draw the power over frequency of the maps before and after each hop."""
    if not fusion_modules(context.model):
        return _spectra_of_layers(context)
    survey = context.survey()
    images = [
        from_figure(spectra_figure(_results(survey.spectra)), "each map before and after the hop")
    ]
    if survey.sums:
        figure = spectra_figure(_results(survey.sums))
        images.append(from_figure(figure, "both maps added: as they are, and after fusion"))
    said = (
        f"Mean power over {survey.images} images of {context.dataset}, by frequency on the fine"
        " lattice of each hop; the mean of each channel and the padding of the images are left"
        " out. The coarse map before the hop is repeated to the fine size, as a plain pyramid"
        " adds it."
    )
    return ReportSection("Spectra before and after fusion", paragraphs(said), images)


def kernels(context: ReportContext) -> ReportSection:
    """Draw the responses of the predicted kernels, and the spectra of their generators."""
    survey = context.survey()
    found = {
        hop: {name: one.result() for name, one in by_name.items()}
        for hop, by_name in survey.responses.items()
        if by_name
    }
    if not found:
        raise ValueError("the model's fusion predicts no kernels")
    images = [from_figure(responses_figure(found), "mean response, one standard deviation around")]
    names = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    for name in names:
        maps = {hop: by_name[name].map for hop, by_name in found.items() if name in by_name}
        figure = maps_figure(maps, label=f"response at {_HIGHEST}")
        images.append(from_figure(figure, f"{name} at {_HIGHEST}, mean over the images by place"))
    for example in survey.examples[:_MOST_EXAMPLES]:
        images += [_response_maps(example, name) for name in names]
    images += _generators(context)
    said = (
        "How much of a wave the kernels let through, mean over directions and pixels. The low-pass"
        " kernels read the coarse map, in whose samples their frequencies are; of the high-pass"
        " filter the part that is added to the fine map is shown. At one a wave stays as it is."
    )
    return ReportSection("Responses of the predicted kernels", paragraphs(said), images)


def offsets(context: ReportContext) -> ReportSection:
    """Draw where the sampler of each hop reads."""
    survey = context.survey()
    images = []
    for example in survey.examples[:_MOST_EXAMPLES]:
        fields = {
            hop: one.offsets[0] for hop, one in example.passes.items() if one.offsets is not None
        }
        if not fields:
            raise ValueError("the model's fusion has no sampler, so nothing is moved")
        images.append(from_figure(offsets_figure(example.picture, fields), example.name))
    if not images:
        raise ValueError("no image is drawn (--examples 0)")
    said = (
        "Arrows go from a pixel to where it is read, as means over the groups of channels and over"
        " small cells, drawn at the scale that the title names; lengths are those of single"
        " pixels, in pixels of the fine map."
    )
    return ReportSection("Offsets of the sampler", paragraphs(said), images)


def _spectra_of_layers(context: ReportContext) -> ReportSection:
    """Draw what the finest hop of a model without fusion modules joins and gives."""
    layers = default_layers(context.model)
    means = {layer.label: MeanSpectrum() for layer in layers}
    for source in context.images():
        inputs = context.predictor.inputs(read_image(source.path))
        for label, one in record_maps(context.model, inputs, layers).items():
            means[label].update(without_padding(one.features, one.covered)[None])
    figure = spectra_figure({"": {label: mean.result() for label, mean in means.items()}})
    said = (
        f"Mean power over {len(context.sources)} images of {context.dataset}; every map on its own"
        " lattice, without the mean of each channel. The model has no fusion module, so there is"
        " no before and after."
    )
    places = ", ".join(f"{layer.label} is {layer}" for layer in layers)
    images = [from_figure(figure, "maps of the finest hop")]
    return ReportSection("Spectra", paragraphs(said, f"{places}."), images)


def _results(
    means: dict[str, dict[str, MeanSpectrum]],
) -> dict[str, dict[str, Spectrum]]:
    return {
        hop: {name: one.result() for name, one in by_name.items()} for hop, by_name in means.items()
    }


def _response_maps(example: FusionExample, name: str) -> EmbeddedImage:
    highest = torch.tensor([_HIGHEST])
    maps = {}
    for hop, one in example.passes.items():
        given = one.lowpass if name == "low-pass" else one.highpass
        if given is not None:
            maps[hop] = kernel_response(given, highest, filter=FILTERS[name])[0, 0]
    figure = maps_figure(maps, image=example.picture, label=f"response at {_HIGHEST}")
    return from_figure(figure, f"{name} at {_HIGHEST}, {example.name}")


def _generators(context: ReportContext) -> list[EmbeddedImage]:
    """Draw the spectra of the convolutions that predict FreqFusion's kernels."""
    modules = fusion_modules(context.model)
    panels = {}
    for name, title in context.survey().titles.items():
        module = modules[name]
        if isinstance(module, FreqFusion):
            panels[title] = {
                kind: generator_spectrum(convolution)
                for kind, convolution in (
                    ("low-pass generator", module.lowpass_generator),
                    ("high-pass generator", module.highpass_generator),
                )
                if convolution is not None
            }
    if not panels:
        return []
    return [from_figure(spectra_figure(panels), "spectra of the learned kernels of the generators")]
