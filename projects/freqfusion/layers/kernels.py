"""Predicted logits to reassembly kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.checks import check_floating, check_positive

# Weight of the center in kernels that start as the identity.
CENTER_WEIGHT = 0.995


def normalize_kernels(logits: Tensor, window: Tensor | None = None, *, groups: int = 1) -> Tensor:
    """Turn predicted logits into kernels that are positive and sum to one at every pixel.

    Softmax over the taps, times ``window``, divided by the sum over the taps again. It is computed
    as ``softmax(logits + log(window))``, which is the same in one pass.

    Args:
        logits: (B, groups * taps, H, W).
        window: (k, k) positive weights of the taps, for example :func:`hamming_window`.
        groups: Number of kernels per pixel.

    Returns:
        (B, groups * taps, H, W).

    Raises:
        ValueError: if the channels are no multiple of ``groups``, or the window has another size.
    """
    check_floating(logits=logits)
    channels = logits.shape[1]
    check_positive(groups=groups)
    if channels % groups:
        raise ValueError(f"groups must divide the {channels} channels of the logits, got {groups}")
    if window is not None:
        if window.numel() * groups != channels:
            raise ValueError(
                f"the window must have one weight for each of the {channels // groups} taps, "
                f"got {tuple(window.shape)}"
            )
        logits = logits + window.to(logits.dtype).log().flatten().repeat(groups)[:, None, None]
    if groups == 1:
        return F.softmax(logits, dim=1)
    return F.softmax(logits.unflatten(1, (groups, -1)), dim=2).flatten(1, 2)


def hamming_window(size: int) -> Tensor:
    """The Hamming window of ``size`` x ``size`` taps, float32: ``h(r) * h(c)``.

    ``h(i) = 0.54 - 0.46 cos(2 pi i / (size - 1))``; a single tap has weight one.
    """
    check_positive(size=size)
    if size == 1:
        return torch.ones(1, 1)
    line = torch.hamming_window(size, periodic=False, dtype=torch.float64)
    return torch.outer(line, line).to(torch.float32)


def favor_center(bias: Tensor, taps: int, share: float, window: Tensor | None = None) -> None:
    """Set logits (groups * taps) so that :func:`normalize_kernels` gives the center ``share``.

    The other taps are left equal, but for the window.
    """
    weights = bias.new_ones(taps) if window is None else window.flatten()
    center = taps // 2
    others = weights.sum() / weights[center] - 1
    with torch.no_grad():
        bias.zero_()
        bias[center::taps] = (others * share / (1 - share)).log()
