"""Checkpoints of a run and weights from elsewhere."""

from freqfusion.engine.checkpoint.reading import SafeCheckpointer

__all__ = ["SafeCheckpointer"]
