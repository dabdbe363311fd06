"""Reading maps at computed places, and the coordinates of their pixels.

Every bilinear sample of the package is taken here. Shapes: maps (N, C, H, W), points
(N, Ho, Wo, 2), x then y, samples (N, C, Ho, Wo).

Points are normalised as ``torch.nn.functional.grid_sample`` has them: without ``align_corners``,
-1 and 1 are the outer edges of a map; with it, the centres of its border pixels. In pixels, the
centres are at whole numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from freqfusion.layers.checks import check_choice, check_floating, check_map
from freqfusion.layers.neighbourhood import compiled, compiled_sampling
from freqfusion.layers.neighbourhood.choice import choose_form, needs_standard_operators
from freqfusion.layers.neighbourhood.geometry import empty_output, memory_format_of

ResampleMode = Literal["bilinear", "bicubic"]
CellInterpolation = Literal["bilinear", "barycentric"]
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
    dtype = wide_dtype(maps, points)
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
    points = nan_if_infinite(points.to(wide_dtype(maps, points))).clamp(-_FAR, _FAR)
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


def sample_at_offsets(features: Tensor, offsets: Tensor) -> Tensor:
    """Read features (B, D, h, w) at every output pixel's place plus its offset in output pixels.

    ``offsets`` are (B, 2, G, Ho, Wo), x first, then y; D splits into G contiguous blocks. The two
    lattices cover the same image. Bilinear, border repeated; coordinates are float32 or better,
    since half precision cannot tell the pixels of a large image apart. The output is NaN where an
    offset is NaN or infinite.
    """
    check_map("features", features)
    check_floating(offsets=offsets)
    batch = features.shape[0]
    if offsets.dim() != 5 or offsets.shape[:2] != (batch, 2) or 0 in offsets.shape[1:]:
        raise ValueError(
            f"offsets must be ({batch}, 2, groups, height, width), x then y, got "
            f"{tuple(offsets.shape)}"
        )
    offsets = offsets.to(wide_dtype(offsets))
    if features.device.type != "cpu" or needs_standard_operators():
        return sample_on_grid(features, offsets)
    output: Tensor = _sample(features, offsets)
    return output


def sample_on_grid(features: Tensor, offsets: Tensor) -> Tensor:
    """Compute :func:`sample_at_offsets` by standard operators."""
    batch, _, groups, height, width = offsets.shape
    columns = torch.arange(width, device=offsets.device, dtype=offsets.dtype)
    rows = torch.arange(height, device=offsets.device, dtype=offsets.dtype)[:, None]
    x = (columns + 0.5 + offsets[:, 0]) * (2 / width) - 1
    y = (rows + 0.5 + offsets[:, 1]) * (2 / height) - 1
    grid = torch.stack([x, y], dim=-1).flatten(0, 1)
    blocks = features.unflatten(1, (groups, -1)).flatten(0, 1)
    sampled = sample_at(blocks, grid, padding_mode="border").to(features.dtype)
    output: Tensor = sampled.unflatten(0, (batch, groups)).flatten(1, 2)
    return output


@torch.library.custom_op("freqfusion::sample_at_offsets", mutates_args=())
def _sample(features: Tensor, offsets: Tensor) -> Tensor:
    if choose_form(features, offsets) is compiled:
        return compiled_sampling.read(features, _on_lattice(features, offsets))
    output = sample_on_grid(features, offsets)
    return output.contiguous(memory_format=memory_format_of(features))


@torch.library.custom_op("freqfusion::sample_at_offsets_backward", mutates_args=())
def _sample_backward(
    grad: Tensor, features: Tensor, offsets: Tensor, need_features: bool, need_offsets: bool
) -> tuple[Tensor, Tensor]:
    """Both derivatives; one that nobody needs is empty."""
    samples = _on_lattice(features, offsets)
    of_features, of_offsets = features.new_empty(0), offsets.new_empty(0)
    if need_features:
        of_features = compiled_sampling.spread(grad, features, samples)
    if need_offsets:
        of_locations, _ = compiled_sampling.differentiate(grad, features, samples)
        of_offsets = of_locations[:, :, :, :, 0].permute(0, 4, 3, 1, 2).to(offsets.dtype)
    return of_features, of_offsets.contiguous()


def _on_lattice(features: Tensor, offsets: Tensor) -> compiled_sampling.Samples:
    locations = offsets.permute(0, 3, 4, 2, 1)[:, :, :, :, None]
    size = (features.shape[-2], features.shape[-1])
    return compiled_sampling.Samples([size], locations, is_lattice=True)


@_sample.register_fake
def _(features: Tensor, offsets: Tensor) -> Tensor:
    return empty_output(features, offsets)


@_sample_backward.register_fake
def _(
    grad: Tensor, features: Tensor, offsets: Tensor, need_features: bool, need_offsets: bool
) -> tuple[Tensor, Tensor]:
    of_features, of_offsets = features.new_empty(0), offsets.new_empty(0)
    if need_features:
        of_features = empty_output(features, features)
    if need_offsets:
        of_offsets = offsets.new_empty(offsets.shape)
    return of_features, of_offsets


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, offsets = ctx.saved_tensors
    needed = ctx.needs_input_grad
    is_once = not torch.is_grad_enabled() and not needs_standard_operators()
    if is_once and choose_form(features, offsets) is compiled:
        gradients = _sample_backward(grad, features, offsets, *needed)
    else:
        gradients = derive(sample_on_grid, (features, offsets), grad)
    return tuple(one if need else None for one, need in zip(gradients, needed, strict=True))


_sample.register_autograd(_backward, setup_context=_save_inputs)


def derive(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of inputs of a function; they can be derived again in grad mode."""
    again = torch.is_grad_enabled() or needs_standard_operators()
    with torch.enable_grad():
        # As tensors of their own: one input may have been computed from another.
        own = [
            one.view_as(one) if again else one.detach().requires_grad_(one.requires_grad)
            for one in inputs
        ]
        wanted = [one for one in own if one.requires_grad]
        found = torch.autograd.grad(
            function(*own), wanted, grad, create_graph=again, allow_unused=True
        )
    gradients = iter(found)
    return tuple(next(gradients) if one.requires_grad else None for one in own)


def interpolate_at(
    features: Tensor,
    points: Tensor,
    *,
    interp: CellInterpolation = "bilinear",
    align_corners: bool = False,
) -> Tensor:
    """Read features at normalised points; beyond the outermost pixel centres they are constant.

    Read with the interpolant that the points were found with: ``"bilinear"`` after the solver
    ``"newton"``, ``"barycentric"`` after ``"search"``. Then data that are affine in the original
    position of their nodes come back exactly; a mixture of both is off by a good part of a pixel.

    Args:
        features: (B, C, H, W), any floating-point type.
        points: (B, Ho, Wo, 2), x then y, for example of
            :func:`~freqfusion.layers.sfm.invert_displacement`.
        interp: ``"bilinear"``: the four nodes of a cell. ``"barycentric"``: the three of the
            triangle (00, 01, 10) or (11, 10, 01).
        align_corners: Meaning of the points, as in ``grid_sample``.

    Returns:
        (B, C, Ho, Wo) in the dtype of ``features``; positions and sums are float32 or better. NaN
        where a coordinate is NaN or infinite.

    Raises:
        ValueError: if the arguments do not fit together.
    """
    check_choice(CellInterpolation, interp=interp)
    check_map("features", features)
    check_points(points, features=features)
    if interp == "bilinear":
        output = sample_at(features, points, padding_mode="border", align_corners=align_corners)
        return output.to(features.dtype)
    dtype = wide_dtype(features, points)
    wide, points = features.to(dtype), points.to(dtype)
    corners = triangle_corners(points, (wide.shape[-2], wide.shape[-1]), align_corners)
    output = (corners.read(wide) * corners.weights[:, None]).sum(2)
    return output.to(features.dtype)


class TriangleCorners(NamedTuple):
    """The nodes of the triangles around Ho x Wo points and the points' barycentric coordinates.

    ``x`` and ``y`` are whole pixels and ``weights`` sums to one over dimension 1; all are
    (B, 3, Ho, Wo). ``node`` counts the nodes row by row.
    """

    x: Tensor
    y: Tensor
    node: Tensor
    weights: Tensor

    def read(self, features: Tensor) -> Tensor:
        """Read features (B, C, H, W) at the nodes: (B, C, 3, Ho, Wo)."""
        node = self.node.flatten(1)[:, None].expand(-1, features.shape[1], -1)
        values: Tensor = features.flatten(2).gather(2, node).unflatten(2, self.node.shape[1:])
        return values


def triangle_corners(
    points: Tensor, size: tuple[int, int], align_corners: bool = False
) -> TriangleCorners:
    """Find the triangles of a map of ``size`` (H, W) around normalised points (B, Ho, Wo, 2).

    Points beyond the outermost pixel centres are moved to the border. On an axis of one pixel all
    corners are that pixel.
    """
    height, width = size
    x, y = to_pixels(nan_if_infinite(points), size, align_corners).unbind(-1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    # Limited as whole numbers: what is not a number must not become an index.
    column = x.detach().floor().long().clamp(0, max(width - 2, 0))
    row = y.detach().floor().long().clamp(0, max(height - 2, 0))
    u, v = x - column, y - row
    second = u + v > 1
    weights = torch.where(
        second[:, None],
        torch.stack([u + v - 1, 1 - u, 1 - v], dim=1),
        torch.stack([1 - u - v, u, v], dim=1),
    )
    far = second.long()
    # Corners (00, 01, 10) of the first triangle and (11, 10, 01) of the second.
    columns = torch.stack([column + far, column + 1 - far, column + far], dim=1)
    rows = torch.stack([row + far, row + far, row + 1 - far], dim=1)
    columns, rows = columns.clamp(max=width - 1), rows.clamp(max=height - 1)
    return TriangleCorners(columns, rows, rows * width + columns, weights)


def check_points(points: Tensor, **maps: Tensor) -> None:
    """Refuse points that do not belong to a map, which is given under its argument's name."""
    check_floating(points=points)
    for name, image in maps.items():
        if points.dim() != 4 or points.shape[0] != image.shape[0] or points.shape[-1] != 2:
            raise ValueError(
                f"points must be ({image.shape[0]}, height, width, 2), x then y, "
                f"got {tuple(points.shape)}"
            )
        if points.device != image.device:
            raise ValueError(
                f"{name} and points must be on one device, got {image.device} and {points.device}"
            )


def to_pixels(points: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Convert normalised points (..., 2) to pixels of a map of ``size`` (height, width).

    With ``align_corners``, all points lie at pixel 0 of an axis of one pixel.
    """
    axes = zip(points.unbind(-1), reversed(size), strict=True)
    if align_corners:
        return torch.stack([(point + 1) * ((length - 1) / 2) for point, length in axes], dim=-1)
    return torch.stack([(point + 1) * (length / 2) - 0.5 for point, length in axes], dim=-1)


def to_normalized(pixels: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Convert points (..., 2) in pixels of a map of ``size`` (height, width) to normalised points.

    With ``align_corners``, pixel 0 of an axis of one pixel is -1.
    """
    axes = zip(pixels.unbind(-1), reversed(size), strict=True)
    if align_corners:
        # An axis of one pixel has no extent.
        return torch.stack([pixel * (2 / max(length - 1, 1)) - 1 for pixel, length in axes], dim=-1)
    return torch.stack([(pixel + 0.5) * (2 / length) - 1 for pixel, length in axes], dim=-1)


def lattice_points(
    size: tuple[int, int],
    align_corners: bool = False,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Return the normalised centres (H, W, 2) of the pixels of a map of ``size``, (H, W)."""
    return to_normalized(lattice_pixels(size, dtype=dtype, device=device), size, align_corners)


def lattice_points_of(
    displacement: Tensor, size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """Repeat :func:`lattice_points` for each image of a displacement: (B, H, W, 2), a view."""
    dtype = wide_dtype(displacement)
    points = lattice_points(size, align_corners, dtype=dtype, device=displacement.device)
    return points.expand(displacement.shape[0], -1, -1, -1)


def lattice_pixels(
    size: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Return the centres (H, W, 2) of the pixels of a map of ``size``, (H, W), in pixels."""
    y, x = (torch.arange(length, dtype=dtype, device=device) for length in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def resize_nearest(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W); where whole multiples are cropped by a pixel, this is the crop."""
    if (image.shape[-2], image.shape[-1]) == size:
        return image
    return F.interpolate(image, size=size, mode="nearest")


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W); a map that has the size already is returned as it came."""
    if (image.shape[-2], image.shape[-1]) == tuple(size):
        return image
    resized = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    # Autocasting on a CPU resizes half precision in float32.
    return resized.to(image.dtype)


def nan_if_infinite(coordinates: Tensor) -> Tensor:
    """Return coordinates with NaN in place of infinities: both are places that do not exist."""
    return coordinates + 0 * coordinates


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the type that holds all tensors, float32 or better.

    Half precision cannot tell the pixels of a large map apart.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
