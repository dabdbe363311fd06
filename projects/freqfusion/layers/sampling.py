"""Reading maps at computed places: every bilinear sample of the package is taken here.

Shapes: maps (N, C, H, W), points (N, Ho, Wo, 2), x then y, samples (N, C, Ho, Wo). Points are
normalised as ``torch.nn.functional.grid_sample`` has them.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ResampleMode = Literal["bilinear", "bicubic"]
Padding = Literal["zeros", "border"]

# Outside every map, and near enough for pixels to stay within the range of 32-bit integers.
_FAR = 1e3


def sample_at(
    maps: Tensor,
    points: Tensor,
    *,
    mode: ResampleMode = "bilinear",
    padding_mode: Padding = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """Read maps at points: ``grid_sample``, but safe wherever the points are.

    A sample is NaN where a coordinate is NaN or infinite. A coordinate of any finite size reads
    what lies far outside. torch's own kernels may end the process there: on a CPU they write the
    gradient of a NaN with ``padding_mode="border"`` to a random address.

    Returns:
        Samples in float32, or float64 where an argument is: half precision cannot tell the pixels
        of a large map apart.
    """
    dtype = _dtype_of(maps, points)
    maps, points = maps.to(dtype), points.to(dtype)
    # Zero for finite coordinates, NaN for others; adding it costs no pass over the gradients.
    invalid = (0 * points.detach()).sum(-1)
    points = points.nan_to_num(nan=0.0).clamp(-_FAR, _FAR)
    samples = F.grid_sample(
        maps, points, mode=mode, padding_mode=padding_mode, align_corners=align_corners
    )
    return samples.add_(invalid[:, None])


def gather_at(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps of any type at points, bilinearly with zeros outside, from the four neighbours.

    Differentiable any number of times, on every device and with every version of torch. Slower than
    :func:`sample_at`, and NaN for the same points. Maps of whole numbers are not copied.
    """
    height, width = maps.shape[-2:]
    points = nan_if_infinite(points.to(_dtype_of(maps, points))).clamp(-_FAR, _FAR)
    place = ((points + 1) * points.new_tensor([width, height]) - 1) / 2
    corner = place.detach().floor()
    fraction = place - corner
    corner = corner.nan_to_num(nan=0.0).long()
    pixels = maps.flatten(2)
    samples: Tensor | None = None
    for right in (0, 1):
        for below in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + below
            weight = (fraction[..., 0] if right else 1 - fraction[..., 0]) * (
                fraction[..., 1] if below else 1 - fraction[..., 1]
            )
            weight = weight * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
            index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
            index = index.flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
            part = pixels.gather(2, index).unflatten(2, weight.shape[1:]) * weight[:, None]
            samples = part if samples is None else samples + part
    assert samples is not None
    return samples


def nan_if_infinite(coordinates: Tensor) -> Tensor:
    """Return coordinates with NaN in place of infinities: both are places that do not exist."""
    return coordinates + 0 * coordinates


def _dtype_of(maps: Tensor, points: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(maps.dtype, points.dtype), torch.float32)
