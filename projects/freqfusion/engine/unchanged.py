"""Run a model in training without its noticing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Give buffers, training flags and other attributes of all modules back as they were.

    That is running statistics of normalizations, but also averages that some losses keep. No
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
