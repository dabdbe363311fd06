"""Content-aware reassembly: upsample with a kernel predicted for every output pixel.

Wang et al., CARAFE: Content-Aware ReAssembly of FEatures, ICCV 2019.
"""

from typing import Literal

import torch
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_map, check_odd, check_positive
from freqfusion.layers.neighbourhood import Geometry, gather

PaddingMode = Literal["zeros", "reflect"]


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
        features, margin = reflect_pad(features, reach), reach
    geometry = Geometry(kernel_size, scale=scale, groups=groups, margin=margin)
    return gather(features, kernels, geometry)


def reflect_pad(image: Tensor, border: int) -> Tensor:
    """Mirror an image (..., H, W) at its edges without repeating them, for images of any size."""
    for dim in (-2, -1):
        size = image.shape[dim]
        index = torch.arange(-border, size + border, device=image.device)
        # A triangle wave of period 2 (size - 1); torch's own padding refuses borders >= size.
        period = max(2 * (size - 1), 1)
        index = index - index // period * period  # exporters know no remainder of a dynamic number
        index = torch.minimum(index, period - index) if size > 1 else index
        image = image.index_select(dim, index)
    return image


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
