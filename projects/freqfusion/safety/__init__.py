"""Read files that others made, checkpoints and YAML, without running anything that they say.

Needs torch and numpy; PyYAML and safetensors where files of theirs are read.
"""

from freqfusion.safety.checkpoint import (
    Outline,
    check_checkpoint,
    outline_checkpoint,
    read_checkpoint,
)
from freqfusion.safety.errors import DamagedError, RefusedError, UnreadableError
from freqfusion.safety.safetensors_files import write_safetensors

__all__ = [
    "DamagedError",
    "Outline",
    "RefusedError",
    "UnreadableError",
    "check_checkpoint",
    "outline_checkpoint",
    "read_checkpoint",
    "write_safetensors",
]
