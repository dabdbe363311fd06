"""What features and models do, measured and drawn; needs torch, numpy and matplotlib only."""

from freqfusion.analysis.aliasing import (
    Modulation,
    StageMeasure,
    attention_edge_correlation,
    control_displacements,
    measure_stage,
)
from freqfusion.analysis.costs import (
    Latency,
    ParameterCount,
    SavedMemory,
    count_parameters,
    measure_latency,
    saved_for_backward,
)
from freqfusion.analysis.feature_similarity import ClassValues, FeatureSimilarity, SimilarityResult
from freqfusion.analysis.figures import (
    LayerSpectrum,
    layer_spectrum,
    layer_spectrum_figure,
    maps_figure,
    offsets_figure,
    responses_figure,
    spectra_figure,
)
from freqfusion.analysis.flops import FlopCount, count_flops
from freqfusion.analysis.fusion_recording import FusionPass, fusion_modules, record_fusions
from freqfusion.analysis.running import RunningMean
from freqfusion.analysis.sfm_figures import attention_figure, lattice_figure
from freqfusion.analysis.similarity import SimilarityMaps, point_similarity, similarity_maps
from freqfusion.analysis.similarity_figure import similarity_figure
from freqfusion.analysis.spectra import (
    MeanResponse,
    MeanSpectrum,
    Response,
    Spectrum,
    kernel_response,
    radial_power_spectrum,
)

__all__ = [
    "ClassValues",
    "FeatureSimilarity",
    "FlopCount",
    "FusionPass",
    "Latency",
    "LayerSpectrum",
    "MeanResponse",
    "MeanSpectrum",
    "Modulation",
    "ParameterCount",
    "Response",
    "RunningMean",
    "SavedMemory",
    "SimilarityMaps",
    "SimilarityResult",
    "Spectrum",
    "StageMeasure",
    "attention_edge_correlation",
    "attention_figure",
    "control_displacements",
    "count_flops",
    "count_parameters",
    "fusion_modules",
    "kernel_response",
    "lattice_figure",
    "layer_spectrum",
    "layer_spectrum_figure",
    "maps_figure",
    "measure_latency",
    "measure_stage",
    "offsets_figure",
    "point_similarity",
    "radial_power_spectrum",
    "record_fusions",
    "responses_figure",
    "saved_for_backward",
    "similarity_figure",
    "similarity_maps",
    "spectra_figure",
]
