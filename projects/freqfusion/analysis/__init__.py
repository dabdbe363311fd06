"""What features and models do, measured and drawn; needs torch, numpy and matplotlib only."""

from freqfusion.analysis.spectra import radial_power_spectrum

__all__ = ["radial_power_spectrum"]
