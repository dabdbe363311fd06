"""What features and models do, measured and drawn; needs torch, numpy and matplotlib only."""

from freqfusion.analysis.aliasing import (
    MeasureOptions,
    Modulation,
    StageMeasure,
    attention_edge_correlation,
    control_displacements,
    measure_stage,
)
from freqfusion.analysis.attention_figure import attention_figure
from freqfusion.analysis.feature_similarity import ClassValues, FeatureSimilarity, SimilarityResult
from freqfusion.analysis.flops import FlopCount, count_flops
from freqfusion.analysis.frequency_figures import responses_figure, spectra_figure
from freqfusion.analysis.fusion_recording import FusionPass, fusion_modules, record_fusions
from freqfusion.analysis.image_figures import maps_figure, offsets_figure
from freqfusion.analysis.latency import Latency, Spread, measure_latency
from freqfusion.analysis.lattice_figure import lattice_figure
from freqfusion.analysis.layer_spectrum_figure import (
    LayerSpectrum,
    layer_spectrum,
    layer_spectrum_figure,
)
from freqfusion.analysis.mean_spectrum import MeanSpectrum, Spectrum, generator_spectrum
from freqfusion.analysis.memory import SavedMemory, peak_memory, saved_for_backward
from freqfusion.analysis.parameters import ParameterCount, count_parameters
from freqfusion.analysis.point_similarity import point_similarity
from freqfusion.analysis.responses import MeanResponse, Response, kernel_response
from freqfusion.analysis.running import RunningMean
from freqfusion.analysis.similarity_figure import similarity_figure
from freqfusion.analysis.similarity_maps import SimilarityMaps, similarity_maps
from freqfusion.analysis.spectra import radial_power_spectrum
from freqfusion.analysis.spectrum_figure import StageSpectra, spectrum_figure

__all__ = [
    "ClassValues",
    "FeatureSimilarity",
    "FlopCount",
    "FusionPass",
    "Latency",
    "LayerSpectrum",
    "MeanResponse",
    "MeanSpectrum",
    "MeasureOptions",
    "Modulation",
    "ParameterCount",
    "Response",
    "RunningMean",
    "SavedMemory",
    "SimilarityMaps",
    "SimilarityResult",
    "Spectrum",
    "Spread",
    "StageMeasure",
    "StageSpectra",
    "attention_edge_correlation",
    "attention_figure",
    "control_displacements",
    "count_flops",
    "count_parameters",
    "fusion_modules",
    "generator_spectrum",
    "kernel_response",
    "lattice_figure",
    "layer_spectrum",
    "layer_spectrum_figure",
    "maps_figure",
    "measure_latency",
    "measure_stage",
    "offsets_figure",
    "peak_memory",
    "point_similarity",
    "radial_power_spectrum",
    "record_fusions",
    "responses_figure",
    "saved_for_backward",
    "similarity_figure",
    "similarity_maps",
    "spectra_figure",
    "spectrum_figure",
]
