"""What the fusion modules of a model compute in a pass, recorded from outside by hooks.

Nothing is stored on a module and its numbers stay as they are. Symbols: hr (B, Ch, Ho, Wo) is the
fine map, lr (B, Cl, H, W) the coarse one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freqfusion.layers import (
    CarafeUpsampling,
    DySampleUpsampling,
    FreqFusion,
    InterpolationUpsampling,
)
from freqfusion.layers.sampling import resize_nearest

_FUSIONS = (FreqFusion, CarafeUpsampling, DySampleUpsampling, InterpolationUpsampling)


@dataclass(frozen=True)
class FusionPass:
    """One hop of a pyramid: maps before and after, and what was predicted for it.

    What the kind of fusion does not have is None. Kernels are (B, k * k, Ho, Wo) and sum to one at
    every pixel; ``highpass`` are those of the smoothing that is subtracted, from twice the map
    where ``is_sharpening``, else from the map. ``offsets`` (B, 2, groups, Ho, Wo) are in fine
    pixels, x first: each pixel reads at its own place plus its offset.
    """

    hr_in: Tensor
    lr_in: Tensor
    hr_out: Tensor
    lr_out: Tensor
    lowpass: Tensor | None = None
    highpass: Tensor | None = None
    is_sharpening: bool = False
    offsets: Tensor | None = None

    @property
    def lr_repeated(self) -> Tensor:
        """Return the coarse map at the fine size by nearest neighbors: what plain pyramids add."""
        return resize_nearest(self.lr_in, (self.hr_in.shape[-2], self.hr_in.shape[-1]))


def fusion_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the fusion modules in a model, by their names, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, _FUSIONS)}


@contextmanager
def record_fusions(model: nn.Module) -> Iterator[dict[str, FusionPass]]:
    """Fill the mapping with the last pass of each fusion module, by its name.

    The tensors are detached. The filters of a module are predicted once more for the record, so
    that a pass takes longer; its results are the same to the last bit.
    """
    passes: dict[str, FusionPass] = {}
    handles = []
    try:
        for name, module in fusion_modules(model).items():
            hook = _hook(name, passes)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, passes: dict[str, FusionPass]) -> Any:
    def hook(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], out: Any) -> None:
        maps = dict(zip(("hr_feat", "lr_feat"), given, strict=False)) | dict(named)
        hr, lr = maps["hr_feat"].detach(), maps["lr_feat"].detach()
        with torch.no_grad():
            predicted = _predicted(module, hr, lr)
        passes[name] = FusionPass(hr, lr, out[1].detach(), out[2].detach(), **predicted)

    return hook


def _predicted(module: nn.Module, hr: Tensor, lr: Tensor) -> dict[str, Any]:
    """Return what a module predicts for its two maps, by the names in ``FusionPass``."""
    size = (hr.shape[-2], hr.shape[-1])
    if isinstance(module, CarafeUpsampling):
        return {"lowpass": module.predict_kernels(lr, size)}
    if isinstance(module, DySampleUpsampling):
        return {"offsets": module.predict_offsets(lr, size)}
    if not isinstance(module, FreqFusion):
        return {}
    steps = module.steps(hr, lr)
    offsets = None
    if module.sampler is not None:
        offsets = module.sampler.predict_offsets(steps.hr_guide, steps.lr_guide)
    return {
        "lowpass": steps.lowpass,
        "highpass": steps.highpass,
        "is_sharpening": module.hr_residual,
        "offsets": offsets,
    }
