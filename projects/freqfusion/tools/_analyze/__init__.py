"""Parts of ``freqfusion.tools.analyze``."""
