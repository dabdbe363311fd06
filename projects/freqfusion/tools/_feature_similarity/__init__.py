"""The parts of ``freqfusion.tools.feature_similarity``."""
