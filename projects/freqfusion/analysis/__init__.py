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
from freqfusion.analysis.latency import Latency, Spread, measure_latency
from freqfusion.analysis.lattice_figure import lattice_figure
from freqfusion.analysis.memory import SavedMemory, peak_memory, saved_for_backward
from freqfusion.analysis.parameters import ParameterCount, count_parameters
from freqfusion.analysis.running import RunningMean
from freqfusion.analysis.similarity_figure import similarity_figure
from freqfusion.analysis.similarity_maps import SimilarityMaps, similarity_maps
from freqfusion.analysis.spectra import radial_power_spectrum
from freqfusion.analysis.spectrum_figure import StageSpectra, spectrum_figure

__all__ = [
    "ClassValues",
    "FeatureSimilarity",
    "FlopCount",
    "Latency",
    "MeasureOptions",
    "Modulation",
    "ParameterCount",
    "RunningMean",
    "SavedMemory",
    "SimilarityMaps",
    "SimilarityResult",
    "Spread",
    "StageMeasure",
    "StageSpectra",
    "attention_edge_correlation",
    "attention_figure",
    "control_displacements",
    "count_flops",
    "count_parameters",
    "lattice_figure",
    "measure_latency",
    "measure_stage",
    "peak_memory",
    "radial_power_spectrum",
    "saved_for_backward",
    "similarity_figure",
    "similarity_maps",
    "spectrum_figure",
]
