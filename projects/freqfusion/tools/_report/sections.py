"""The sections of the report in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from freqfusion.tools._report.aliasing_section import aliasing
from freqfusion.tools._report.context import Context
from freqfusion.tools._report.cost_section import costs
from freqfusion.tools._report.fusion_sections import kernels, offsets, spectra
from freqfusion.tools._report.prediction_sections import predictions, similarity
from freqfusion.tools._report.run_sections import curves, results
from freqfusion.tools._report.section import Section

# A section that does not apply to the model, or cannot be made, raises ValueError with the reason.
SECTIONS: Mapping[str, Callable[[Context], Section]] = {
    "results": results,
    "training": curves,
    "predictions": predictions,
    "similarity": similarity,
    "spectra": spectra,
    "kernels": kernels,
    "offsets": offsets,
    "aliasing": aliasing,
    "costs": costs,
}
