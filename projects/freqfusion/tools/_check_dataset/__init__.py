"""Parts of ``freqfusion.tools.check_dataset``."""
