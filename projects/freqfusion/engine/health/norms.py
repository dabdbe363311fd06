"""How large gradients are."""

from __future__ import annotations

import torch
from torch import nn

from freqfusion.engine.sharding import local, whole


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """Euclidean norm of all gradients together; 0 where there are none."""
    return _norm([p.grad for p in model.parameters() if p.grad is not None])


def gradient_norms_by_part(model: nn.Module) -> dict[str, float]:
    """The same for each module directly below the model."""
    norms = {}
    for name, child in model.named_children():
        gradients = [p.grad for p in child.parameters() if p.grad is not None]
        if gradients:
            norms[name] = float(_norm(gradients))
    return norms


def gradients_finite(model: nn.Module) -> bool:
    """Whether each number of each gradient is; a norm may overflow where they are.

    Of gradients that are shared out, those of this process.
    """
    gradients = (p.grad for p in model.parameters() if p.grad is not None)
    return all(bool(local(gradient).isfinite().all()) for gradient in gradients)


def _norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    norm: torch.Tensor = whole(torch.nn.utils.get_total_norm(gradients))
    return norm
