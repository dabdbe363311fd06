"""Run a model in training without its noticing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give buffers, training flags and other attributes of all modules back as they were.

    That is running statistics of normalisations, but also averages that some losses keep. No
    gradients are computed meanwhile.
    """
    saved = [
        (
            module,
            dict(vars(module)),
            {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)},
        )
        for module in model.modules()
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for module, attributes, buffers in saved:
            for name in set(vars(module)) - set(attributes):
                del vars(module)[name]
            vars(module).update(attributes)
            for name, buffer in buffers.items():
                getattr(module, name).copy_(buffer)


@contextmanager
def separate_randomness(seed: int) -> Iterator[None]:
    """Random numbers that begin at ``seed``; afterwards those of before go on."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
