"""Attention to a few places in feature maps of several sizes, chosen by each query.

Zhu et al., Deformable DETR: Deformable Transformers for End-to-End Object Detection, ICLR 2021.

One operator with a compiled form for CPUs (:mod:`.neighbourhood.compiled_sampling`), one in
standard operators for exporters, other devices and second derivatives, and a way to the kernels for
GPUs of the package deformops (Stolle, Efficient Multi-Scale Deformable Attention on GPUs, TMLR
2026).

Shapes that the forms share::

    value      (B, S, heads, D)                  the maps, flattened row by row, one after another
    shapes     [(H, W), ...]                     their sizes; S is the sum of H * W
    locations  (B, Q, heads, levels, points, 2)  x, y; 0 and 1 are the outer edges of a map
    weights    (B, Q, heads, levels, points)     of the samples
    output     (B, Q, heads * D)
"""

import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice, check_floating, check_positive
from freqfusion.layers.neighbourhood import compiled, compiled_sampling
from freqfusion.layers.neighbourhood.choice import choose_form, needs_standard_operators
from freqfusion.layers.neighbourhood.compiled_sampling import Samples
from freqfusion.layers.neighbourhood.geometry import accumulation_dtype
from freqfusion.layers.sampling import derive, gather_at, sample_at, wide_dtype

AttentionImplementation = Literal["auto", "torch", "deformops"]


def deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    implementation: AttentionImplementation = "auto",
) -> Tensor:
    """Return the weighted sum of bilinear samples of several maps, for every query and head.

    A sample at (x, y) of a map of H x W pixels lies at pixel (x * W - 0.5, y * H - 0.5); pixels
    outside the map are zero (``grid_sample`` with ``align_corners=False``).

    Args:
        value: (B, S, heads, D), the maps flattened row by row, one after another.
        spatial_shapes: (H, W) of each map, as Python numbers; S is the sum of their products.
        sampling_locations: (B, Q, heads, levels, points, 2), x and y; 0 and 1 are the outer edges
            of a map. Keep them in float32 or better: half precision cannot tell the pixels of a
            large map apart.
        attention_weights: (B, Q, heads, levels, points), used as they are.
        implementation: ``"torch"``; ``"deformops"``, the package of that name, which has kernels
            for GPUs; ``"auto"``, deformops for tensors on a GPU where it is installed.

    Returns:
        (B, Q, heads * D) in the dtype of ``value``. Half precision is summed in float32 by torch,
        which also gives NaN to a query with a location that is NaN or infinite. Derivatives of
        second order exist on a CPU, and elsewhere where torch's ``grid_sample`` has them.

    Raises:
        ValueError: if the arguments do not fit together.
        RuntimeError: if deformops is asked for and is not installed.
    """
    check_choice(AttentionImplementation, implementation=implementation)
    shapes = _check_maps(value, spatial_shapes)
    _check_samples(value, len(shapes), sampling_locations, attention_weights)
    if implementation == "deformops" or (
        implementation == "auto"
        and value.is_cuda
        and not needs_standard_operators()
        and has_deformops()
    ):
        return _attend_with_deformops(value, shapes, sampling_locations, attention_weights)
    return _dispatch(value, shapes, sampling_locations, attention_weights)


class MultiScaleDeformableAttention(nn.Module):
    """Deformable attention with its projections, several maps at once.

    At the start every head looks in a direction of its own, the points one pixel apart, and all
    samples count alike. The names of the parameters are those of published weights.

    Args:
        embed_dim: Channels of queries, values and output.
        num_levels: Number of maps.
        num_heads: Must divide ``embed_dim``.
        num_points: Samples for each map and head.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_levels: int = 4,
        num_heads: int = 8,
        num_points: int = 4,
    ):
        super().__init__()
        check_positive(
            embed_dim=embed_dim, num_levels=num_levels, num_heads=num_heads, num_points=num_points
        )
        if embed_dim % num_heads:
            raise ValueError(
                f"num_heads must divide embed_dim, got {num_heads} heads for {embed_dim} channels"
            )
        self.embed_dim = embed_dim
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the class says; both projections by Xavier's rule."""
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        # On the outline of a square, so that eight heads look at the eight neighbours.
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1.0, self.num_points + 1)[:, None]
        offsets = (directions[:, None, None] * steps).expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Let every query look around its reference points.

        Args:
            query: (B, Q, C).
            reference_points: (B, Q, levels, 2), x and y in [0, 1], around which offsets are in
                pixels of the map; or (B, Q, levels, 4), boxes of centre, width and height, where
                an offset of ``num_points`` reaches the edge of the box.
            value: (B, S, C), the maps flattened row by row, one after another.
            spatial_shapes: (H, W) of each map.
            padding_mask: (B, S), true where ``value`` is padding and counts as zero.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: if the arguments do not fit together.
        """
        self._check(query, reference_points, value, spatial_shapes, padding_mask)
        projected = self.value_proj(value)
        if padding_mask is not None:
            projected = projected.masked_fill(padding_mask[..., None], 0)
        shape = (self.num_heads, self.num_levels, self.num_points)
        logits = self.attention_weights(query).unflatten(-1, (self.num_heads, -1))
        output = deformable_attention(
            projected.unflatten(-1, (self.num_heads, -1)),
            spatial_shapes,
            self._locate(query, reference_points, spatial_shapes),
            logits.softmax(-1).unflatten(-1, shape[1:]),
        )
        result: Tensor = self.output_proj(output)
        return result

    def _locate(
        self, query: Tensor, reference_points: Tensor, spatial_shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Return sampling locations (B, Q, heads, levels, points, 2), float32 or better."""
        shape = (self.num_heads, self.num_levels, self.num_points, 2)
        dtype = wide_dtype(query)
        offsets = self.sampling_offsets(query).unflatten(-1, shape).to(dtype)
        reference = reference_points.to(dtype)[:, :, None, :, None]
        if reference.shape[-1] == 4:
            offsets = offsets * (reference[..., 2:] * (0.5 / self.num_points))
        else:
            sizes = [(width, height) for height, width in spatial_shapes]
            offsets = offsets / torch.tensor(sizes, dtype=dtype, device=query.device)[:, None]
        located: Tensor = reference[..., :2] + offsets
        return located

    def _check(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        padding_mask: Tensor | None,
    ) -> None:
        check_floating(like=self.value_proj.weight, query=query, value=value)
        check_floating(reference_points=reference_points)
        for name, tensor in (("query", query), ("value", value)):
            if tensor.dim() != 3 or tensor.shape[-1] != self.embed_dim:
                raise ValueError(
                    f"{name} must be (batch, length, {self.embed_dim}), got {tuple(tensor.shape)}"
                )
        if len(spatial_shapes) != self.num_levels:
            raise ValueError(
                f"spatial_shapes must have a size for each of the {self.num_levels} levels, "
                f"got {len(spatial_shapes)}"
            )
        wanted = (*query.shape[:2], self.num_levels)
        if reference_points.shape[:-1] != wanted or reference_points.shape[-1] not in (2, 4):
            raise ValueError(
                f"reference_points must be {wanted} points of 2 or boxes of 4 numbers, "
                f"got {tuple(reference_points.shape)}"
            )
        if padding_mask is None:
            return
        if padding_mask.shape != value.shape[:2] or padding_mask.dtype != torch.bool:
            raise ValueError(
                f"padding_mask must be {tuple(value.shape[:2])} booleans, "
                f"got {tuple(padding_mask.shape)} of {padding_mask.dtype}"
            )


def _dispatch(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Return the weighted sum, computed in whichever way suits the device."""
    if torch.compiler.is_exporting():  # grid_sample is one node there
        return attend_by_levels(value, shapes, locations, weights)
    if needs_standard_operators():  # not every version of torch can derive grid_sample twice
        return attend_by_levels(value, shapes, locations, weights, sample=gather_at)
    if value.device.type != "cpu":
        return attend_by_levels(value, shapes, locations, weights)
    flat = [size for shape in shapes for size in shape]
    output: Tensor = _attend(value, flat, locations, weights)
    return output


def attend_by_levels(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    sample: Callable[[Tensor, Tensor], Tensor] = sample_at,
) -> Tensor:
    """Return the weighted sum by standard operators, one level in memory at a time.

    ``sample`` reads maps at points with zeros outside: :func:`sample_at`, or :func:`gather_at` for
    derivatives of any order.
    """
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    dtype = accumulation_dtype(value.dtype)
    total: Tensor | None = None
    start = 0
    for level, (height, width) in enumerate(shapes):
        part = value.narrow(1, start, height * width).to(dtype)
        start = start + height * width
        image = part.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = 2 * locations[:, :, :, level].to(dtype) - 1
        sampled = sample(image, grid.transpose(1, 2).flatten(0, 1))
        weight = weights[:, :, :, level].to(dtype).transpose(1, 2).flatten(0, 1)
        level_sum = (sampled * weight[:, None]).sum(-1)
        total = level_sum if total is None else total + level_sum
    assert total is not None
    output = total.reshape(batch, heads * channels, queries).transpose(1, 2)
    return output.to(value.dtype).contiguous()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_deformops() -> bool:
    """Say whether deformops can be imported; doing so registers its operators with torch."""
    try:
        importlib.import_module("deformops.registry")
    except ImportError:
        return False
    return True


def _attend_with_deformops(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Return the weighted sum by kernels for GPUs (Stolle, TMLR 2026).

    Raises:
        RuntimeError: if deformops is not installed.
    """
    if not has_deformops():
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


# On a CPU the operator is one node for ``torch.compile`` with a name for counters. Only the inputs
# are kept for the backward pass, which finds the corners again. The sizes cross the dispatcher as
# one list of numbers: height, width, height, width and so on.


def _pairs(shapes: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2], strict=True))


def _samples(shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Samples:
    return Samples(_pairs(shapes), locations.flatten(3, 4)[:, None], weights.flatten(3)[:, None])


def _as_maps(rows: Tensor) -> Tensor:
    """View (B, S, channels) as (B, channels, 1, S)."""
    return rows.transpose(1, 2)[:, :, None]


def _as_rows(maps: Tensor) -> Tensor:
    return maps[:, :, 0].transpose(1, 2).contiguous()


@torch.library.custom_op("freqfusion::deformable_attention", mutates_args=())
def _attend(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    if choose_form(value, locations, weights) is compiled:
        maps = _as_maps(value.flatten(2))
        return _as_rows(compiled_sampling.read(maps, _samples(shapes, locations, weights)))
    return attend_by_levels(value, _pairs(shapes), locations, weights)


@torch.library.custom_op("freqfusion::deformable_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    need_value: bool,
    need_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """All derivatives; those that nobody needs are empty."""
    samples = _samples(shapes, locations, weights)
    maps, gradient = _as_maps(value.flatten(2)), _as_maps(grad)
    found = [tensor.new_empty(0) for tensor in (value, locations, weights)]
    if need_value:
        spread = compiled_sampling.spread(gradient, maps, samples)
        found[0] = _as_rows(spread).view(value.shape)
    if need_samples:
        for i, part in enumerate(compiled_sampling.differentiate(gradient, maps, samples)):
            assert part is not None
            like = (locations, weights)[i]
            found[i + 1] = part.view(like.shape).to(like.dtype)
    return found[0], found[1], found[2]


@_attend.register_fake
def _(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty((*locations.shape[:2], value.shape[2] * value.shape[3]))


@_attend_backward.register_fake
def _(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    need_value: bool,
    need_samples: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    needs = ((value, need_value), (locations, need_samples), (weights, need_samples))
    of_value, of_locations, of_weights = (
        tensor.new_empty(tensor.shape if need else 0) for tensor, need in needs
    )
    return of_value, of_locations, of_weights


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs = value, locations, weights = ctx.saved_tensors
    need_value, _, *need_samples = needed = ctx.needs_input_grad
    again = torch.is_grad_enabled() or needs_standard_operators()  # will be derived once more
    found: tuple[Tensor | None, ...]
    if not again and choose_form(*inputs) is compiled:
        needs = (need_value, any(need_samples))
        found = _attend_backward(grad, value, ctx.shapes, locations, weights, *needs)
    else:

        def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            sample = gather_at if again else sample_at
            return attend_by_levels(value, _pairs(ctx.shapes), locations, weights, sample=sample)

        found = derive(attend, inputs, grad)
    all_found = (found[0], None, *found[1:])
    return tuple(one if need else None for one, need in zip(all_found, needed, strict=True))


_attend.register_autograd(_backward, setup_context=_save_inputs)


def _check_maps(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]] | Tensor
) -> list[tuple[int, int]]:
    """Refuse maps whose sizes do not fit; return the sizes."""
    if isinstance(spatial_shapes, Tensor):
        raise ValueError(
            "spatial_shapes must be (height, width) pairs of Python numbers, got a tensor: "
            "pass spatial_shapes.tolist()"
        )
    check_floating(value=value)
    if value.dim() != 4:
        raise ValueError(
            f"value must be (batch, positions, heads, channels), got {tuple(value.shape)}"
        )
    shapes = [(height, width) for height, width in spatial_shapes]
    if not shapes or any(height < 1 or width < 1 for height, width in shapes):
        raise ValueError(f"spatial_shapes must be positive (height, width) pairs, got {shapes}")
    positions = sum(height * width for height, width in shapes)
    if value.shape[1] != positions:
        raise ValueError(
            f"value must have {positions} positions, the pixels of maps of {shapes}, "
            f"got {value.shape[1]}"
        )
    return shapes


def _check_samples(value: Tensor, levels: int, locations: Tensor, weights: Tensor) -> None:
    check_floating(sampling_locations=locations, attention_weights=weights)
    batch, _, heads, _ = value.shape
    shape = locations.shape
    if len(shape) != 6 or (shape[0], shape[2], shape[3], shape[5]) != (batch, heads, levels, 2):
        raise ValueError(
            "sampling_locations must be (batch, queries, heads, levels, points, 2) with "
            f"{batch} images, {heads} heads and {levels} levels, got {tuple(shape)}"
        )
    if weights.shape != shape[:-1]:
        raise ValueError(
            f"attention_weights must be {tuple(shape[:-1])} as sampling_locations are, "
            f"got {tuple(weights.shape)}"
        )
    for name, tensor in (("sampling_locations", locations), ("attention_weights", weights)):
        if tensor.device != value.device:
            raise ValueError(
                f"value and {name} must be on one device, got {value.device} and {tensor.device}"
            )
