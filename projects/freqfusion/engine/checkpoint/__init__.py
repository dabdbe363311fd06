"""Checkpoints of a run, from which it goes on exactly, and weights from elsewhere."""

from freqfusion.engine.checkpoint.run_checkpointer import (
    RunCheckpointer,
    SaveError,
    has_checkpoint,
    remove_unfinished,
    save_file,
)
from freqfusion.engine.checkpoint.saving import (
    INTERRUPTED,
    Interrupted,
    LastSaveFailedError,
    Saving,
    StopRequest,
    handled_signals,
    process_state,
    restore_process,
    signals_recorded,
)
from freqfusion.engine.checkpoint.weights import SafeCheckpointer, local_weights

__all__ = [
    "INTERRUPTED",
    "Interrupted",
    "LastSaveFailedError",
    "RunCheckpointer",
    "SafeCheckpointer",
    "SaveError",
    "Saving",
    "StopRequest",
    "handled_signals",
    "has_checkpoint",
    "local_weights",
    "process_state",
    "remove_unfinished",
    "restore_process",
    "save_file",
    "signals_recorded",
]
