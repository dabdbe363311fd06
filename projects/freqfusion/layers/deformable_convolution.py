"""Convolution at places that every pixel chooses itself, with weights of its own (DCNv3).

Wang et al., InternImage: Exploring Large-Scale Vision Foundation Models with Deformable
Convolutions, CVPR 2023. With one map, as many points as the kernel has taps, and groups for heads,
its sum is that of deformable attention, and is computed there.

Shapes: B images with C channels, channels last; G groups of channels; K taps, those of a kernel of
rows x columns counted column by column from the top left, as published weights count them.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice, check_floating, check_odd, check_positive
from freqfusion.layers.deformable import deformable_attention
from freqfusion.layers.sampling import wide_dtype

# One number for both axes, or those of the rows and the columns.
Size = int | tuple[int, int]
Normalization = Literal["LN", "BN"]
Activation = Literal["GELU", "ReLU", "SiLU"]
# Of all layer normalizations in published models.
EPSILON = 1e-6
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    name: getattr(nn, name) for name in get_args(Activation)
}


class _Axis(NamedTuple):
    """The geometry of a kernel along one axis of a map."""

    size: int
    taps: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        return self.dilation * (self.taps - 1) + 1

    @property
    def out_size(self) -> int:
        return (self.size + 2 * self.padding - self.reach) // self.stride + 1

    def places(self, offset_scale: float, like: Tensor) -> Tensor:
        """Return the places (out_size, taps) of all taps; 0 and 1 are the outer edges of the map.

        The middle of an even kernel is the tap, or the gap, before the centre.
        """
        dtype = wide_dtype(like)
        middle = (self.reach - 1) // 2
        pixels = torch.arange(self.out_size, device=like.device, dtype=dtype) * self.stride
        steps = torch.arange(self.taps, device=like.device, dtype=dtype) * self.dilation - middle
        centers = pixels[:, None] + (middle - self.padding + 0.5)
        return (centers + steps * offset_scale) / self.size


def deformable_convolution_v3(
    value: Tensor,
    offsets: Tensor,
    weights: Tensor,
    *,
    kernel_size: Size,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
) -> Tensor:
    """Return the weighted sum of bilinear samples around each pixel (the paper's equation 2).

    For an output pixel p, a group g and its taps k it is the sum over k of
    ``weights[g, k] * value_g[p + offset_scale * (k + offsets[g, k])]``; a tap is counted from the
    middle of the kernel (rounded down in an even one), in pixels and times the dilation. Pixels
    outside the map are zero. The projections before and after the sum are the module's.

    Args:
        value: (B, H, W, C).
        offsets: (B, H', W', G * K * 2), each x and y, in pixels before the scale. H' and W' are
            those of a convolution of this geometry: ``(H + 2 * padding - reach) // stride + 1``
            with ``reach = dilation * (rows - 1) + 1``.
        weights: (B, H', W', G * K), used as they are: the softmax is the caller's.
        kernel_size: Rows and columns of the kernel.
        stride: Pixels of the map from one output pixel to the next.
        padding: How far the kernel reaches over each edge of the map.
        dilation: Pixels from one tap to the next.
        groups: G, must divide C. The channels of a group move together.
        offset_scale: Widens offsets and kernel alike.
        remove_center: Leave out the tap in the middle of an odd kernel; K is one less.

    Returns:
        (B, H', W', C) in the dtype of ``value``. Coordinates and sums are float32 or better.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    check_positive(groups=groups)
    check_floating(value=value, offsets=offsets, weights=weights)
    vertical, horizontal = axes = _axes(value, kernel_size, stride, padding, dilation)
    taps = vertical.taps * horizontal.taps
    if remove_center and taps % 2 == 0:
        raise ValueError(f"a kernel without its center must be odd, got {kernel_size}")
    size = (vertical.out_size, horizontal.out_size)
    _check(value, offsets, weights, (len(value), *size), groups, taps - remove_center)
    y, x = (axis.places(offset_scale, offsets) for axis in axes)
    # (H', W', columns, rows): those of the taps.
    shape = (*size, horizontal.taps, vertical.taps)
    both = [x[None, :, :, None].expand(shape), y[:, None, None, :].expand(shape)]
    places = torch.stack(both, dim=-1).flatten(2, 3)[:, :, None]
    if remove_center:
        places = torch.cat([places[..., : taps // 2, :], places[..., taps // 2 + 1 :, :]], dim=-2)
    scales = places.new_tensor([offset_scale / size for size in (value.shape[2], value.shape[1])])
    shifts = offsets.unflatten(-1, (groups, -1, 2)).to(places.dtype)
    located = torch.addcmul(places, shifts, scales)
    output = deformable_attention(
        value.flatten(1, 2).unflatten(-1, (groups, -1)),
        [(value.shape[1], value.shape[2])],
        located.flatten(1, 2).unsqueeze(3),
        weights.flatten(1, 2).unflatten(-1, (groups, 1, -1)),
    )
    result: Tensor = output.unflatten(1, size)
    return result


class ChannelsLast(nn.Module):
    """(B, C, H, W) to (B, H, W, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        """A view."""
        return maps.permute(0, 2, 3, 1)


def channels_last_norm(channels: int, norm: Normalization = "LN") -> nn.Sequential:
    """Return a normalization that brings (B, C, H, W) to (B, H, W, C); its number is published."""
    if norm == "BN":
        return nn.Sequential(nn.BatchNorm2d(channels), ChannelsLast())
    return nn.Sequential(ChannelsLast(), nn.LayerNorm(channels, eps=EPSILON))


class DeformableConvolutionV3(nn.Module):
    """DCNv3 with its projections, on maps of any size; output of the same shape.

    Offsets and weights come from a depthwise convolution of the map; weights pass a softmax over
    the taps. At the start it is the mean of the taps, all in place, between two projections.

    The names of the parameters are those of published weights: ``dw_conv.0`` (convolution) and
    ``dw_conv.1.1`` (normalization), ``offset``, ``mask``, ``input_proj`` and ``output_proj``, and
    ``center_feature_scale_proj_weight`` and ``_bias``.

    Args:
        channels: Of input and output.
        groups: Must divide ``channels``.
        kernel_size: Odd.
        dilation: Pixels from one tap to the next.
        offset_scale: Widens offsets and kernel alike.
        depthwise_kernel: Odd width of the depthwise convolution; None: that of the kernel.
        norm: Its normalization, ``"LN"`` or ``"BN"``.
        activation: Behind it, ``"GELU"``, ``"ReLU"`` or ``"SiLU"``.
        center_feature_scale: Mix the projected map into the sum, by a share that each pixel
            predicts for each group, as the largest published models do.
        remove_center: Leave out the tap in the middle.
    """

    center_feature_scale_proj_weight: nn.Parameter | None
    center_feature_scale_proj_bias: nn.Parameter | None

    def __init__(
        self,
        *,
        channels: int,
        groups: int,
        kernel_size: int = 3,
        dilation: int = 1,
        offset_scale: float = 1.0,
        depthwise_kernel: int | None = None,
        norm: Normalization = "LN",
        activation: Activation = "GELU",
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ):
        super().__init__()
        depthwise_kernel = kernel_size if depthwise_kernel is None else depthwise_kernel
        check_odd(kernel_size=kernel_size, depthwise_kernel=depthwise_kernel)
        check_positive(channels=channels, groups=groups, dilation=dilation)
        check_choice(Normalization, norm=norm)
        check_choice(Activation, activation=activation)
        _check_groups(channels, groups)
        if not offset_scale > 0:
            raise ValueError(f"offset_scale must be positive, got {offset_scale}")
        self.channels, self.groups = channels, groups
        self.kernel_size, self.dilation = kernel_size, dilation
        self.offset_scale, self.remove_center = offset_scale, remove_center
        taps = groups * (kernel_size**2 - remove_center)
        depthwise = nn.Conv2d(
            channels, channels, depthwise_kernel, padding=depthwise_kernel // 2, groups=channels
        )
        self.dw_conv = nn.Sequential(
            depthwise, channels_last_norm(channels, norm), _ACTIVATIONS[activation]()
        )
        self.offset = nn.Linear(channels, 2 * taps)
        self.mask = nn.Linear(channels, taps)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        weight = nn.Parameter(torch.zeros(groups, channels)) if center_feature_scale else None
        bias = nn.Parameter(torch.zeros(groups)) if center_feature_scale else None
        self.register_parameter("center_feature_scale_proj_weight", weight)
        self.register_parameter("center_feature_scale_proj_bias", bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize offsets and weights as the class says; both projections by Xavier's rule."""
        for layer in (self.offset, self.mask):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for parameter in (
            self.center_feature_scale_proj_weight,
            self.center_feature_scale_proj_bias,
        ):
            if parameter is not None:
                nn.init.zeros_(parameter)

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
        value = self.input_proj(maps)
        output = deformable_convolution_v3(
            value,
            self.offset(around),
            logits.softmax(-1).flatten(-2),
            kernel_size=self.kernel_size,
            padding=self.dilation * (self.kernel_size // 2),
            dilation=self.dilation,
            groups=self.groups,
            offset_scale=self.offset_scale,
            remove_center=self.remove_center,
        )
        if self.center_feature_scale_proj_weight is not None:
            output = self._mix(output, value, around)
        result: Tensor = self.output_proj(output)
        return result

    def _mix(self, output: Tensor, value: Tensor, around: Tensor) -> Tensor:
        """Move the output of each group towards the value of its pixel."""
        weight, bias = self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
        assert weight is not None
        shares = F.linear(around, weight, bias).sigmoid()[..., None]
        output, value = (maps.unflatten(-1, (self.groups, -1)) for maps in (output, value))
        return (output + shares * (value - output)).flatten(-2)


def _axes(
    value: Tensor, kernel_size: Size, stride: Size, padding: Size, dilation: Size
) -> tuple[_Axis, _Axis]:
    """Return the geometry of rows and columns; ValueError where nothing would come out."""
    if value.dim() != 4 or 0 in value.shape[1:]:
        raise ValueError(
            "value must be (batch, height, width, channels) with at least one pixel, got "
            f"{tuple(value.shape)}"
        )
    sizes = {
        "kernel_size": kernel_size,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
    }
    pairs = {name: (n, n) if isinstance(n, int) else n for name, n in sizes.items()}
    for name, pair in pairs.items():
        least = 0 if name == "padding" else 1
        if len(pair) != 2 or min(pair) < least:
            kind = "not be negative" if name == "padding" else "be positive"
            raise ValueError(f"{name} must {kind}, got {sizes[name]}")
    vertical, horizontal = (
        _Axis(value.shape[1 + axis], *(pair[axis] for pair in pairs.values())) for axis in (0, 1)
    )
    if min(vertical.out_size, horizontal.out_size) < 1:
        raise ValueError(
            f"the kernel reaches over {(vertical.reach, horizontal.reach)} pixels, more than a map "
            f"of {tuple(value.shape[1:3])} has with a padding of {padding}: pad more"
        )
    return vertical, horizontal


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
