"""Checkpoints of a run, from which it goes on exactly, and weights from elsewhere."""

from freqfusion.engine.checkpoint.files import SaveError, replace_file
from freqfusion.engine.checkpoint.interruption import (
    INTERRUPTED,
    Asked,
    Interrupted,
    LastSaveFailedError,
    handled_signals,
    signals_noted,
)
from freqfusion.engine.checkpoint.process_state import process_state, restore_process
from freqfusion.engine.checkpoint.reading import SafeCheckpointer, local_weights
from freqfusion.engine.checkpoint.run_checkpointer import (
    RunCheckpointer,
    has_checkpoint,
    remove_leftovers,
)
from freqfusion.engine.checkpoint.saving import Saving

__all__ = [
    "INTERRUPTED",
    "Asked",
    "Interrupted",
    "LastSaveFailedError",
    "RunCheckpointer",
    "SafeCheckpointer",
    "SaveError",
    "Saving",
    "handled_signals",
    "has_checkpoint",
    "local_weights",
    "process_state",
    "remove_leftovers",
    "replace_file",
    "restore_process",
    "signals_noted",
]
