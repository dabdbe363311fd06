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
from freqfusion.analysis.lattice_figure import lattice_figure
from freqfusion.analysis.running import RunningMean
from freqfusion.analysis.similarity_figure import similarity_figure
from freqfusion.analysis.similarity_maps import SimilarityMaps, similarity_maps
from freqfusion.analysis.spectra import radial_power_spectrum
from freqfusion.analysis.spectrum_figure import StageSpectra, spectrum_figure

__all__ = [
    "ClassValues",
    "FeatureSimilarity",
    "MeasureOptions",
    "Modulation",
    "RunningMean",
    "SimilarityMaps",
    "SimilarityResult",
    "StageMeasure",
    "StageSpectra",
    "attention_edge_correlation",
    "attention_figure",
    "control_displacements",
    "lattice_figure",
    "measure_stage",
    "radial_power_spectrum",
    "similarity_figure",
    "similarity_maps",
    "spectrum_figure",
]
