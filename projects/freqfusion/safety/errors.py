"""What is told about a file that is not read."""

from __future__ import annotations


class UnreadableError(ValueError):
    """The rest of a sentence that begins with the name of a file."""


class RefusedError(UnreadableError):
    """Reading the file would run code, or cost far more than it holds."""


class DamagedError(UnreadableError):
    """The file is cut off, or is not what it says that it is."""
