"""Command lines, each started as ``python -m freqfusion.tools.<name>``."""
