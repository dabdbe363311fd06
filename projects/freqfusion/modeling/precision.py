"""Arithmetic that mixed precision must not touch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Within the block tensors keep their types; nothing to do on "meta", which has no autocast."""
    if device.type == "meta":
        return nullcontext()
    switched_off: AbstractContextManager[None] = torch.autocast(device.type, enabled=False)
    return switched_off
