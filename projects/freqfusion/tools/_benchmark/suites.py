"""What is measured: each suite is a list of cases, each case the same maths in two forms."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from freqfusion.layers import FreqFusion, normalize_kernels, reassemble
from freqfusion.tools._benchmark.oracle import load_unfold_forms

Call = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Size:
    """Channels and size of the coarse map; the fine one is twice as large."""

    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        fine = f"{2 * self.height}x{2 * self.width}"
        return f"{self.channels} channels, {self.height}x{self.width} to {fine}"


# Builds inputs for ``size`` and returns the call, in our form or in the unfold form, with or
# without a backward pass. Picklable, so that memory can be measured in another process.
Case = Callable[..., Call]
WARM_UP = Size(16, 4, 4)


def reassembly(size: Size, *, ours: bool, backward: bool) -> Call:
    """The operator: kernel 5, scale 2."""
    torch.manual_seed(0)
    features = torch.randn(1, size.channels, size.height, size.width, requires_grad=backward)
    logits = torch.randn(1, 25, 2 * size.height, 2 * size.width)
    kernels = normalize_kernels(logits).requires_grad_(backward)
    form = reassemble if ours else load_unfold_forms().reassemble

    def forward() -> tuple[Tensor, ...]:
        return (form(features, kernels, kernel_size=5, scale=2),)

    return _call(forward, (features, kernels), backward)


def fusion(size: Size, *, ours: bool, backward: bool) -> Call:
    """The module: resampling in 4 groups, 64 compressed channels."""
    torch.manual_seed(0)
    module = FreqFusion(
        hr_channels=size.channels,
        lr_channels=size.channels,
        compressed_channels=64,
        feature_resample=True,
        feature_resample_group=4,
    ).requires_grad_(backward)
    fine = torch.randn(1, size.channels, 2 * size.height, 2 * size.width, requires_grad=backward)
    coarse = torch.randn(1, size.channels, size.height, size.width, requires_grad=backward)
    form = module if ours else partial(load_unfold_forms().freqfusion, module)
    wanted = (fine, coarse, *module.parameters())
    return _call(lambda: form(fine, coarse)[1:], wanted, backward)


SUITES: dict[str, Case] = {"reassemble": reassembly, "fusion": fusion}


def _call(forward: Call, wanted: tuple[Tensor, ...], backward: bool) -> Call:
    if not backward:
        return torch.no_grad()(forward)
    weights = [torch.randn_like(output) for output in forward()]

    def both() -> tuple[Tensor, ...]:
        outputs = forward()
        return (*outputs, *torch.autograd.grad(outputs, wanted, weights))

    return both
