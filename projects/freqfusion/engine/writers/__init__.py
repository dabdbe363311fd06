"""Where the metrics of a run go, besides its log and ``metrics.json``."""

from freqfusion.engine.writers.selection import build_writers

__all__ = ["build_writers"]
