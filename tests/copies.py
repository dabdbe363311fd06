"""Ways to copy a module, and what makes a copy that is not one show."""

import copy
import io
import pickle

import torch


def pickled(module):
    return pickle.loads(pickle.dumps(module))


def saved(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = (copy.deepcopy, pickled, saved)


def disturbed(module):
    """Move all parameters away from their start, where some parts do nothing."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(noise, alpha=0.05)
    return module
