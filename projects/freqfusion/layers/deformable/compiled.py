"""Kernels for GPUs, from the package deformops where it is installed.

Stolle, Efficient Multi-Scale Deformable Attention on GPUs, TMLR 2026.
"""

import importlib
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_installed() -> bool:
    """Whether deformops can be imported; doing so registers its operators with torch."""
    try:
        importlib.import_module("deformops.registry")
    except ImportError:
        return False
    return True


def sample_with_deformops(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of samples.

    Raises:
        RuntimeError: if deformops is not installed.
    """
    if not is_installed():
        raise RuntimeError(
            "implementation='deformops' needs the package deformops (Python 3.12 or newer): "
            "pip install 'freqfusion[deformops]', or use implementation='auto'"
        )
    sizes = torch.tensor(shapes, device=value.device)
    ends = list(itertools.accumulate(height * width for height, width in shapes))
    starts = torch.tensor([0, *ends[:-1]], device=value.device)
    output: Tensor = torch.ops.deformops.msda(
        value, sizes, starts, locations, weights.to(value.dtype).flatten(-2)
    )
    return output.to(value.dtype)
