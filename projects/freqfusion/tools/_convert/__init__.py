"""The parts of ``freqfusion.tools.convert_checkpoint``."""
