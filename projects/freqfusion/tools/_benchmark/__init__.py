"""The parts of ``freqfusion.tools.benchmark``."""
