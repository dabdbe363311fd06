"""Sections about what fusion does to frequencies, and where the sampler reads."""

from __future__ import annotations

import torch

from freqfusion.analysis import (
    MeanSpectrum,
    Spectrum,
    fusion_modules,
    generator_spectrum,
    kernel_response,
    maps_figure,
    offsets_figure,
    responses_figure,
    spectra_figure,
)
from freqfusion.layers import FreqFusion
from freqfusion.tools._feature_similarity.layers import default_layers
from freqfusion.tools._feature_similarity.recording import record_maps
from freqfusion.tools._report.context import Context
from freqfusion.tools._report.section import Image, Section, from_figure, paragraphs
from freqfusion.tools._report.survey import FILTERS, Example, without_padding
from freqfusion.tools._visualize.sources import read_image

_HIGHEST = 0.5
# Figures of offsets and kernels are large; more of them tell little.
_MOST_EXAMPLES = 2


def spectra(context: Context) -> Section:
    """Power over frequency of the maps before and after each hop."""
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
    return Section("Spectra before and after fusion", paragraphs(said), images)


def kernels(context: Context) -> Section:
    """Responses of the predicted kernels, and the spectra of the convolutions behind them."""
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
    return Section("Responses of the predicted kernels", paragraphs(said), images)


def offsets(context: Context) -> Section:
    """Where the sampler of each hop reads."""
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
    return Section("Offsets of the sampler", paragraphs(said), images)


def _spectra_of_layers(context: Context) -> Section:
    """Of a model without fusion modules: what its finest hop joins, and what it gives."""
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
    return Section("Spectra", paragraphs(said, f"{places}."), images)


def _results(
    means: dict[str, dict[str, MeanSpectrum]],
) -> dict[str, dict[str, Spectrum]]:
    return {
        hop: {name: one.result() for name, one in by_name.items()} for hop, by_name in means.items()
    }


def _response_maps(example: Example, name: str) -> Image:
    highest = torch.tensor([_HIGHEST])
    maps = {}
    for hop, one in example.passes.items():
        given = one.lowpass if name == "low-pass" else one.highpass
        if given is not None:
            maps[hop] = kernel_response(given, highest, filter=FILTERS[name])[0, 0]
    figure = maps_figure(maps, image=example.picture, label=f"response at {_HIGHEST}")
    return from_figure(figure, f"{name} at {_HIGHEST}, {example.name}")


def _generators(context: Context) -> list[Image]:
    """Spectra of the learned convolutions that predict the kernels, for FreqFusion only."""
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
