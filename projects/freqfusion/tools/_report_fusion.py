"""What the fusion modules of a model do to the images of a data set, as sections of the report."""

from __future__ import annotations

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
    fusion_modules,
    kernel_response,
    maps_figure,
    offsets_figure,
    record_fusions,
    responses_figure,
    spectra_figure,
)
from freqfusion.analysis.spectra import Filter
from freqfusion.drawing import Picture
from freqfusion.predictor import Predictor
from freqfusion.tools._images import ImageSource, read_image
from freqfusion.tools._layers import covered_parts, without_padding
from freqfusion.tools._page import ReportSection, from_figure, paragraphs

# Maps before and after a hop, by what the curves are called.
MAPS = ("fine, before", "fine, after", "coarse, repeated", "coarse, after")
# What is shown of each kind of kernels: what it lets through, and what it adds.
FILTERS: Mapping[str, Filter] = {"low-pass": "smoothing", "high-pass": "detail"}
_HIGHEST = 0.5
# Figures of offsets and kernels are large; more of them tell little.
_MOST_EXAMPLES = 2


class FusionSurvey:
    """Mean spectra, mean responses and a few examples, by hop in the order of the pass.

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
        self.responses: dict[str, dict[str, MeanResponse]] = {}
        self.examples: list[tuple[str, Picture, dict[str, FusionPass]]] = []
        for source in sources:
            picture = read_image(source.path)
            passes = fusions_of(predictor, picture)
            for hop, one in passes.items():
                self._measure(hop, one)
            if len(self.examples) < examples:
                self.examples.append((source.path.name, picture, passes))

    def _measure(self, hop: str, one: FusionPass) -> None:
        maps = zip(MAPS, (one.hr_in, one.hr_out, one.lr_repeated, one.lr_out), strict=True)
        for name, features in maps:
            self.spectra.setdefault(hop, {}).setdefault(name, MeanSpectrum()).update(features)
        for name, kernels in kernels_of(one).items():
            mean = MeanResponse(filter=FILTERS[name])
            self.responses.setdefault(hop, {}).setdefault(name, mean).update(kernels)


def kernels_of(one: FusionPass) -> dict[str, Tensor]:
    """Return the kernels of a hop by their kind, as far as it has them."""
    kernels = zip(FILTERS, (one.lowpass, one.highpass), strict=True)
    return {name: given for name, given in kernels if given is not None}


def fusions_of(predictor: Predictor, picture: Picture) -> dict[str, FusionPass]:
    """Return what the fusion modules compute for one image, on the CPU, without the padding."""
    with covered_parts(predictor.model) as covered, record_fusions(predictor.model) as passes:
        predictor(picture)
    found = {}
    for name, one in passes.items():
        maps = {key: value for key, value in vars(one).items() if isinstance(value, Tensor)}
        cut: dict[str, Any] = {k: without_padding(one, covered(one)) for k, one in maps.items()}
        found[name] = replace(one, **cut)
    return found


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
    survey = context.survey()
    panels = {
        hop: {name: one.result() for name, one in by_name.items()}
        for hop, by_name in survey.spectra.items()
    }
    images = [from_figure(spectra_figure(panels), "each map before and after the hop")]
    said = (
        f"Mean power over {len(context.sources)} images of {context.dataset}, by frequency on the"
        " fine lattice of each hop; the mean of each channel and the padding of the images are left"
        " out. The coarse map before the hop is repeated to the fine size, as a plain pyramid"
        " adds it."
    )
    return ReportSection("Spectra before and after fusion", paragraphs(said), images)


def kernels(context: ReportContext) -> ReportSection:
    """Draw the responses of the predicted kernels, over frequency and over a few images."""
    survey = context.survey()
    found = {
        hop: {name: one.result() for name, one in by_name.items()}
        for hop, by_name in survey.responses.items()
    }
    if not found:
        raise ValueError("the model's fusion predicts no kernels")
    images = [from_figure(responses_figure(found), "mean response, one standard deviation around")]
    highest = torch.tensor([_HIGHEST])
    for title, picture, passes in survey.examples[:_MOST_EXAMPLES]:
        by_kind: dict[str, dict[str, Tensor]] = {}
        for hop, one in passes.items():
            for kind, given in kernels_of(one).items():
                response = kernel_response(given, highest, filter=FILTERS[kind])[0, 0]
                by_kind.setdefault(kind, {})[hop] = response
        for kind, maps in by_kind.items():
            figure = maps_figure(picture, maps, label=f"response at {_HIGHEST}")
            images.append(from_figure(figure, f"{kind} at {_HIGHEST}, {title}"))
    said = (
        "How much of a wave the kernels let through, mean over directions and pixels. The low-pass"
        " kernels read the coarse map, in whose samples their frequencies are; of the high-pass"
        " filter the part that is added to the fine map is shown. At one a wave stays as it is."
    )
    return ReportSection("Responses of the predicted kernels", paragraphs(said), images)


def offsets(context: ReportContext) -> ReportSection:
    """Draw where the sampler of each hop reads."""
    images = []
    for title, picture, passes in context.survey().examples[:_MOST_EXAMPLES]:
        fields = {hop: one.offsets[0] for hop, one in passes.items() if one.offsets is not None}
        if not fields:
            raise ValueError("the model's fusion has no sampler, so nothing is moved")
        images.append(from_figure(offsets_figure(picture, fields), title))
    if not images:
        raise ValueError("no image is drawn (--examples 0)")
    said = (
        "Arrows go from a pixel to where it is read, as means over the groups of channels and over"
        " small cells, drawn at the scale that the title names; colors are lengths in pixels of"
        " the fine map."
    )
    return ReportSection("Offsets of the sampler", paragraphs(said), images)
