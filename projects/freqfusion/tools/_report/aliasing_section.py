"""The section about what the downsampling steps of the backbone fold."""

from __future__ import annotations

from freqfusion.analysis import MeasureOptions
from freqfusion.tools._aliasing.figures import image_figures, stage_spectra
from freqfusion.tools._aliasing.inputs import Reader
from freqfusion.tools._aliasing.measuring import AliasingMeter
from freqfusion.tools._aliasing.report import footer, rows_of
from freqfusion.tools._report.context import Context
from freqfusion.tools._report.section import Section, from_figure, paragraphs, table


def aliasing(context: Context) -> Section:
    """Shares of the power above the Nyquist frequency, by stage."""
    from freqfusion.tools._aliasing.places import find_places

    sources = context.images()
    places = find_places(context.model, context.cfg.MODEL.SFM.POINTS)
    read = Reader(context.cfg, context.predictor, with_truth=places.modulated is not None)
    meter = AliasingMeter(
        context.model,
        places,
        options=MeasureOptions(interpolation="bicubic", remove_dc=True, window=None),
        ignore_value=context.cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
    )
    images = []
    for number, source in enumerate(sources):
        item = read(source)
        seen, covered = meter(item)
        if number < context.examples:
            figures = image_figures(item.picture(), seen, covered)
            images += [
                from_figure(one, f"{kind}, {source.path.name}") for kind, one in figures.items()
            ]
    images.insert(0, from_figure(stage_spectra(meter), "mean spectra, and the limit of the step"))
    body = table(rows_of(meter), words=2, title="share of the power that is folded")
    return Section("Aliasing", body + paragraphs(*footer(meter, equivalent=False)), images)
