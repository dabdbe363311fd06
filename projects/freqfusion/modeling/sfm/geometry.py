"""How strided layers lay out their maps: stride, phase, size, and the order of the axes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Layers inside attention make fewer keys, not a smaller map.
_INNER = ("attn", "attention")
_MERGING = "PatchMerging"
Restore = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class StrideGeometry:
    """Pixel j of the output lies at pixel ``stride * j + phase`` of the input, on both axes.

    Attributes:
        stride: Pixels of the input per pixel of the output.
        phase: 0 for 3 x 3 with padding 1, 0.5 for 2 x 2 without padding.
        extent: From the first to the last pixel that a kernel reads.
        padding: On each side.
        ceil_mode: Whether the length is rounded up, as pooling can.
        same: Padded as TensorFlow does, so that the output has a pixel for each ``stride`` pixels,
            begun ones included. The phase is that of lengths that the stride divides.
    """

    stride: int
    phase: float
    extent: int
    padding: int
    ceil_mode: bool = False
    same: bool = False

    def out_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width that the layer makes of ``size``; at least 1."""
        height, width = (self._length(length) for length in size)
        return height, width

    def _length(self, length: int) -> int:
        if self.same:
            return -(-length // self.stride)
        free = length + 2 * self.padding - self.extent - 1
        steps = -(-free // self.stride) if self.ceil_mode else free // self.stride
        # Rounded up, a window that would begin beyond the map is dropped.
        if self.ceil_mode and steps * self.stride >= length + self.padding:
            steps -= 1
        return max(steps + 1, 1)


def strided_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and layer of each layer in a module, or itself, that makes maps smaller.

    These are convolutions and poolings with a stride, and Swin's merging of patches by its name.
    """
    for path, layer in module.named_modules():
        if not any(part in _INNER for part in path.split(".")) and _is_strided(layer):
            yield path, layer


def geometry_of(module: nn.Module, where: str) -> StrideGeometry:
    """Return the geometry of what ``module`` does to a map; ``where`` names it in messages.

    Raises:
        ValueError: if it has no strided layer, or its branches lay their pixels differently.
    """
    found = {path: _layer_geometry(layer, where) for path, layer in strided_layers(module)}
    if not found:
        raise ValueError(f"{where} has no strided convolution or pooling: nothing to modulate for")
    layouts = {(layer.stride, layer.phase) for layer in found.values()}
    if len(layouts) > 1:
        listed = ", ".join(
            f"{path or where}: stride {layer.stride}, phase {layer.phase:g}"
            for path, layer in found.items()
        )
        raise ValueError(
            f"the branches of {where} lay their pixels at different positions ({listed}): give the "
            "phase to go by, or another module"
        )
    return next(iter(found.values()))


def merges_patches(module: nn.Module) -> bool:
    """Whether the module is a merging of patches as in Swin, whose maps have channels last."""
    return type(module).__name__.endswith(_MERGING)


def _is_strided(layer: nn.Module) -> bool:
    if merges_patches(layer):
        return True
    if not hasattr(layer, "kernel_size") or not hasattr(layer, "padding"):
        return False
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return False
    return max(_pair(getattr(layer, "stride", None) or 1)) > 1


def _layer_geometry(layer: Any, where: str) -> StrideGeometry:
    if merges_patches(layer):
        return StrideGeometry(stride=2, phase=0.5, extent=1, padding=0, ceil_mode=True)
    kind = type(layer).__name__
    same = "Same" in kind  # timm's Conv2dSame, MaxPool2dSame, AvgPool2dSame
    padding = (0, 0) if layer.padding == "valid" else _pair(layer.padding)
    dilation = _pair(getattr(layer, "dilation", 1))
    axes = {
        (stride, reach * (kernel - 1), pad)
        for kernel, stride, pad, reach in zip(
            _pair(layer.kernel_size), _pair(layer.stride), padding, dilation, strict=True
        )
    }
    if len(axes) > 1:
        raise ValueError(
            f"{where} has a {kind} that treats height and width differently, which one stride and "
            "one phase cannot describe: choose another module"
        )
    stride, extent, pad = axes.pop()
    if same:
        # The smaller half of what is missing goes to the left.
        pad = max(extent + 1 - stride, 0) // 2
    return StrideGeometry(
        stride=stride,
        phase=extent / 2 - pad,
        extent=extent,
        padding=pad,
        ceil_mode=bool(getattr(layer, "ceil_mode", False)),
        same=same,
    )


def stride_of(layer: Any) -> int:
    """Return the (greater) stride of a strided layer."""
    return 2 if merges_patches(layer) else max(_pair(layer.stride))


def kernel_of(layer: Any) -> int:
    """Return the (greater) side of a strided layer's kernel, in pixels of its input."""
    return 2 if merges_patches(layer) else max(_pair(layer.kernel_size))


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def to_channels_first(
    args: tuple[Any, ...], *, channels: int, channels_last: bool, where: str
) -> tuple[Tensor, Restore]:
    """View the map that a module is called with as (B, C, H, W).

    Args:
        args: Of the call: (B, C, H, W), (B, H, W, C), or tokens (B, H * W, C) followed by H and W.
        channels: C.
        channels_last: What to take where C is also the height or the width.
        where: Names the module in messages.

    Returns:
        The map, and what brings a map of its shape back into the layout that came.

    Raises:
        ValueError: if there is no such map.
    """
    maps = args[0] if args else None
    shape = tuple(maps.shape) if isinstance(maps, Tensor) else ()
    if isinstance(maps, Tensor) and len(shape) == 3 and len(args) >= 3 and shape[2] == channels:
        height, width = args[1:3]
        if height * width == shape[1]:
            return maps.transpose(1, 2).unflatten(2, (height, width)), _to_tokens
    if isinstance(maps, Tensor) and len(shape) == 4:
        first, last = shape[1] == channels, shape[3] == channels
        if last and (channels_last or not first):
            return maps.permute(0, 3, 1, 2), _to_channels_last
        if first:
            return maps, _as_it_is
    raise ValueError(
        f"{where} must be called with a map of {channels} channels to be resampled, got "
        f"{shape or type(maps).__name__}: name another module in MODEL.SFM.POINTS"
    )


def _as_it_is(maps: Tensor) -> Tensor:
    return maps


def _to_channels_last(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)


def _to_tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)
