"""The samples of each level in standard operators only."""

from collections.abc import Callable, Sequence

from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import accumulation_dtype
from freqfusion.layers.sampling import sample_at


def attend(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    *,
    sample: Callable[[Tensor, Tensor], Tensor] = sample_at,
) -> Tensor:
    """Weighted sum of samples; levels are added up one by one, so that one is in memory.

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
