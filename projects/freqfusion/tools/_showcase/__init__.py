"""The parts of ``freqfusion.tools.showcase``."""
