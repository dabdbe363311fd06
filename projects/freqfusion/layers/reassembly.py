"""Content-aware reassembly: upsample with a kernel predicted for every output pixel.

Predicted logits become kernels, and kernels weigh the pixels around each output pixel. Wang et al.,
CARAFE: Content-Aware ReAssembly of FEatures, ICCV 2019.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.checks import (
    check_choice,
    check_floating,
    check_map,
    check_odd,
    check_positive,
)
from freqfusion.layers.neighbourhood import Geometry, gather

PaddingMode = Literal["zeros", "reflect"]

# Weight of the center in kernels that start as the identity.
CENTER_WEIGHT = 0.995


def reassemble(
    features: Tensor,
    kernels: Tensor,
    *,
    kernel_size: int,
    scale: int = 1,
    groups: int = 1,
    padding_mode: PaddingMode = "zeros",
    out_size: tuple[int, int] | None = None,
) -> Tensor:
    """Weighted sum of the ``kernel_size`` x ``kernel_size`` source pixels around each output pixel.

    Output pixel (y, x) looks at the source pixels around (sy, sx) = (y // scale, x // scale)::

        out[y, x] = sum over dy, dx of kernels[dy, dx][y, x] * features[sy + dy, sx + dx]

    Args:
        features: (B, C, H, W), any floating-point type, any memory format.
        kernels: (B, groups * kernel_size ** 2, Ho, Wo), used as they are: normalise them first, for
            example with :func:`~freqfusion.layers.normalize_kernels`. Channel
            ``(group * kernel_size + row) * kernel_size + column`` holds one tap.
        kernel_size: Odd width of the neighbourhood.
        scale: Whole-number upscaling factor.
        groups: Number of contiguous channel blocks that have kernels of their own.
        padding_mode: What lies outside the features: ``"zeros"`` (outputs shrink near the border,
            as in the CUDA operator that published weights were trained with) or ``"reflect"``
            (the image mirrored without repeating its edge; a map of one pixel repeats it).
        out_size: Height and width of the output, ``scale`` times the features' by default. A size
            that is at most ``scale - 1`` pixels short of it (27 from 14) is computed as the whole
            multiple and cropped. On an axis with any other ratio, also a ratio below one, each
            output pixel looks around its nearest source pixel, ``floor(index * size / out)``.
            ``kernels`` must have this size, or that of the whole multiple, which is then cropped.

    Returns:
        (B, C, Ho, Wo) in the dtype and memory format of ``features``. Half precision is summed in
        float32. Derivatives of any order exist; only the two inputs are kept for them.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    _check(features, kernels, kernel_size, scale, groups, padding_mode)
    whole = (features.shape[-2] * scale, features.shape[-1] * scale)
    target = whole if out_size is None else (out_size[0], out_size[1])
    kernels = _fit_kernels(kernels, whole, target, scale, given=out_size is not None)
    reach, margin = kernel_size // 2, 0
    if padding_mode == "reflect" and reach > 0:
        features = mirror(mirror(features, reach, dim=-2), reach, dim=-1)
        margin = reach
    geometry = Geometry(kernel_size, scale=scale, groups=groups, margin=margin)
    return gather(features, kernels, geometry)


def mirror(image: Tensor, border: int, dim: int) -> Tensor:
    """Continue an axis on both sides by its mirror image, the edge itself not repeated.

    Unlike ``torch.nn.functional.pad`` this works for axes shorter than ``border``, which are
    mirrored again and again; an axis of one pixel repeats it.
    """
    size = image.shape[dim]
    index = torch.arange(-border, size + border, device=image.device)
    # A triangle wave.
    period = max(2 * (size - 1), 1)
    index = index - index // period * period  # exporters know no remainder of a dynamic number
    return image.index_select(dim, torch.minimum(index, period - index))


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
    """Return the Hamming window of ``size`` x ``size`` taps, float32: ``h(r) * h(c)``.

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


def _check(
    features: Tensor, kernels: Tensor, kernel_size: int, scale: int, groups: int, padding_mode: str
) -> None:
    check_odd(kernel_size=kernel_size)
    check_positive(scale=scale, groups=groups)
    check_choice(PaddingMode, padding_mode=padding_mode)
    check_map("features", features)
    check_map("kernels", kernels)
    if features.shape[0] != kernels.shape[0] or features.device != kernels.device:
        raise ValueError(
            f"features and kernels must have the same batch size and device, got "
            f"{features.shape[0]} on {features.device} and {kernels.shape[0]} on {kernels.device}"
        )
    if features.shape[1] % groups:
        raise ValueError(
            f"groups must divide the {features.shape[1]} channels of features, got {groups}"
        )
    if kernels.shape[1] != groups * kernel_size**2:
        raise ValueError(
            f"kernels must have groups * kernel_size ** 2 = {groups * kernel_size**2} channels, "
            f"got {kernels.shape[1]}"
        )


def _fit_kernels(
    kernels: Tensor, whole: tuple[int, int], target: tuple[int, int], scale: int, *, given: bool
) -> Tensor:
    """Crop kernels of the whole multiple to the output size; refuse any other mismatch."""
    size = (kernels.shape[-2], kernels.shape[-1])
    if size == target:
        return kernels
    if size == whole and all(0 <= w - t < scale for w, t in zip(whole, target, strict=True)):
        return kernels[..., : target[0], : target[1]]
    wanted = f"out_size {target}" if given else f"scale times the features' size, {whole}"
    hint = "" if given else f"; pass out_size={size} if that is the size you want"
    raise ValueError(f"kernels must have the size of the output, {wanted}, got {size}{hint}")
