"""Convolution at places that every pixel chooses itself, with weights of its own (DCNv3).

Wang et al., InternImage: Exploring Large-Scale Vision Foundation Models with Deformable
Convolutions, CVPR 2023. With one map, as many points as the kernel has taps, and groups for heads,
its sum is that of deformable attention, and is computed there.

Shapes: B images with C channels, channels last; G groups of channels; K * K taps, counted column by
column from the top left, as published weights count them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_floating, check_odd, check_positive
from freqfusion.layers.deformable import deformable_attention
from freqfusion.layers.sampling import wide_dtype

# Of all normalisations in published models.
EPSILON = 1e-6


def deformable_convolution_v3(
    value: Tensor,
    offsets: Tensor,
    weights: Tensor,
    *,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
) -> Tensor:
    """Weighted sum of bilinear samples around each pixel (the paper's equation 2).

    For an output pixel p, a group g and its taps k it is the sum over k of
    ``weights[g, k] * value_g[p + offset_scale * (k + offsets[g, k])]``; a tap is counted from the
    middle of the kernel, in pixels and times the dilation. Pixels outside the map are zero. The
    projections before and after the sum are the module's.

    Args:
        value: (B, H, W, C).
        offsets: (B, H', W', G * K * K * 2), each x and y, in pixels before the scale. H' and W'
            are those of a convolution of this geometry: ``(H + 2 * padding - reach) // stride + 1``
            with ``reach = dilation * (K - 1) + 1``.
        weights: (B, H', W', G * K * K), used as they are: the softmax is the caller's.
        kernel_size: K, odd.
        stride: Pixels of the map from one output pixel to the next.
        padding: How far the kernel reaches over each edge of the map.
        dilation: Pixels from one tap to the next.
        groups: G, must divide C. The channels of a group move together.
        offset_scale: Widens offsets and kernel alike.

    Returns:
        (B, H', W', C) in the dtype of ``value``. Coordinates and sums are float32 or better.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    check_odd(kernel_size=kernel_size)
    check_positive(stride=stride, dilation=dilation, groups=groups)
    check_floating(value=value, offsets=offsets, weights=weights)
    reach = dilation * (kernel_size - 1) + 1
    height, width = _output_size(value, reach, stride, padding)
    _check(value, offsets, weights, (len(value), height, width), groups, kernel_size**2)
    first = reach // 2 - padding
    y, x = (
        _axis(out, size, kernel_size, first, stride, dilation * offset_scale, offsets)
        for out, size in zip((height, width), value.shape[1:3], strict=True)
    )
    # (H', W', K, K): rows and columns of pixels, then columns and rows of taps.
    shape = (height, width, kernel_size, kernel_size)
    axes = [x[None, :, :, None].expand(shape), y[:, None, None, :].expand(shape)]
    places = torch.stack(axes, dim=-1).flatten(2, 3)[:, :, None]
    scales = places.new_tensor([offset_scale / size for size in (value.shape[2], value.shape[1])])
    shifts = offsets.unflatten(-1, (groups, -1, 2)).to(places.dtype)
    located = torch.addcmul(places, shifts, scales)
    output = deformable_attention(
        value.flatten(1, 2).unflatten(-1, (groups, -1)),
        [(value.shape[1], value.shape[2])],
        located.flatten(1, 2).unsqueeze(3),
        weights.flatten(1, 2).unflatten(-1, (groups, 1, -1)),
    )
    result: Tensor = output.unflatten(1, (height, width))
    return result


class ChannelsLast(nn.Module):
    """(B, C, H, W) to (B, H, W, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        """A view."""
        return maps.permute(0, 2, 3, 1)


class DeformableConvolutionV3(nn.Module):
    """DCNv3 with its projections, on maps of any size; output of the same shape.

    Offsets and weights come from a depthwise convolution of the map; weights pass a softmax over
    the taps. At the start it is the mean of the taps, all in place, between two projections.

    The names of the parameters are, as far as known, those of published weights: ``dw_conv.0``
    (convolution) and ``dw_conv.1.1`` (normalisation), ``offset``, ``mask``, ``input_proj`` and
    ``output_proj``. No published file was opened to compare them. Left out is what only the
    largest published models have: a gate towards the projected map, and kernels without a centre.

    Args:
        channels: Of input and output.
        groups: Must divide ``channels``.
        kernel_size: Odd.
        offset_scale: Widens offsets and kernel alike.
    """

    def __init__(
        self, *, channels: int, groups: int, kernel_size: int = 3, offset_scale: float = 1.0
    ):
        super().__init__()
        check_odd(kernel_size=kernel_size)
        check_positive(channels=channels, groups=groups)
        _check_groups(channels, groups)
        if not offset_scale > 0:
            raise ValueError(f"offset_scale must be positive, got {offset_scale}")
        self.channels = channels
        self.groups = groups
        self.kernel_size = kernel_size
        self.offset_scale = offset_scale
        taps = groups * kernel_size**2
        depthwise = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )
        normalization = nn.Sequential(ChannelsLast(), nn.LayerNorm(channels, eps=EPSILON))
        self.dw_conv = nn.Sequential(depthwise, normalization, nn.GELU())
        self.offset = nn.Linear(channels, 2 * taps)
        self.mask = nn.Linear(channels, taps)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise offsets and weights as the class says; both projections by Xavier's rule."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, H, W, C) to one of the same shape.

        Raises:
            ValueError: if the map has another shape.
        """
        check_floating(like=self.offset.weight, maps=maps)
        if maps.dim() != 4 or maps.shape[-1] != self.channels or 0 in maps.shape[1:]:
            raise ValueError(
                f"maps must be (batch, height, width, {self.channels}), got {tuple(maps.shape)}"
            )
        around = self.dw_conv(maps.permute(0, 3, 1, 2))
        logits = self.mask(around).unflatten(-1, (self.groups, -1))
        output = deformable_convolution_v3(
            self.input_proj(maps),
            self.offset(around),
            logits.softmax(-1).flatten(-2),
            kernel_size=self.kernel_size,
            padding=self.kernel_size // 2,
            groups=self.groups,
            offset_scale=self.offset_scale,
        )
        result: Tensor = self.output_proj(output)
        return result


def _axis(
    out: int, size: int, taps: int, first: int, stride: int, step: float, like: Tensor
) -> Tensor:
    """Places (out, taps) on an axis of ``size`` pixels; 0 and 1 are its outer edges.

    The middle of the kernel begins at pixel ``first``; taps are ``step`` pixels apart.
    """
    dtype = wide_dtype(like)
    pixels = torch.arange(out, device=like.device, dtype=dtype) * stride
    steps = (torch.arange(taps, device=like.device, dtype=dtype) - taps // 2) * step
    return (pixels[:, None] + (first + 0.5) + steps) / size


def _output_size(value: Tensor, reach: int, stride: int, padding: int) -> tuple[int, int]:
    if value.dim() != 4 or 0 in value.shape[1:]:
        raise ValueError(
            "value must be (batch, height, width, channels) with at least one pixel, got "
            f"{tuple(value.shape)}"
        )
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    room = [size + 2 * padding - reach for size in value.shape[1:3]]
    if min(room) < 0:
        raise ValueError(
            f"the kernel reaches over {reach} pixels, more than a map of "
            f"{tuple(value.shape[1:3])} has with a padding of {padding}: pad more"
        )
    return room[0] // stride + 1, room[1] // stride + 1


def _check(
    value: Tensor,
    offsets: Tensor,
    weights: Tensor,
    pixels: Sequence[int],
    groups: int,
    taps: int,
) -> None:
    _check_groups(value.shape[-1], groups)
    for name, tensor, numbers in (("offsets", offsets, 2), ("weights", weights, 1)):
        wanted = (*pixels, groups * taps * numbers)
        if tensor.shape != wanted:
            raise ValueError(
                f"{name} must be {wanted}, for {groups} groups of {taps} taps at each output "
                f"pixel, got {tuple(tensor.shape)}"
            )
        if tensor.device != value.device:
            raise ValueError(
                f"value and {name} must be on one device, got {value.device} and {tensor.device}"
            )


def _check_groups(channels: int, groups: int) -> None:
    if channels % groups:
        raise ValueError(
            f"groups must divide the channels, got {groups} groups for {channels} channels"
        )
