"""How a case is cut into programs: the lattice that is tiled, the sizes of tiles and blocks.

Plain Python without Triton, so that it can be read and tested alone. The package says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from freqfusion.layers.neighbourhood.geometry import Geometry

# Pixels of a tile, one for each thread of eight warps, and the sums that each of them holds: fewer
# for large kernels, which have more neighbours on their way at a time.
_PIXELS = 256
_SUMS, _LEAST_SUMS = 16, 8
_LARGE_KERNEL = 7
# The same for channels-last maps: fewer pixels, since the threads share out the channels too.
_LAST_PIXELS = 64
_LAST_CHANNELS = 32
# Channels of a channels-last map that the correlation reads at a time: 32 bytes in float32.
_CORRELATED_CHANNELS = 8
# Sums that a program of the correlation holds, and its threads.
_CORRELATED_SUMS = 4096
_WARPS = 4
_LANES = 32
# Upscalings whose s * s outputs are summed together.
_MOST_SHARED = 2
# Columns of the outputs above one source pixel that the scatter reads side by side.
_MOST_COLUMNS = 4
# Programs that keep every multiprocessor of the largest GPUs busy with several.
_ENOUGH_PROGRAMS = 512


@dataclass(frozen=True)
class Plan:
    """The tiling of one launch.

    ``sub`` outputs on each axis belong to one pixel of the base lattice (1: the base are the
    outputs themselves), which has ``scales`` of its own. A program goes through ``chunks`` blocks
    of ``block`` channels, and ``parts`` programs share the channels of a tile.
    """

    base: tuple[int, int]
    sub: int
    scales: tuple[int, int]
    tile: tuple[int, int]
    block: int
    tiles: tuple[int, int]
    parts: int
    chunks: int
    warps: int

    @property
    def programs_per_group(self) -> int:
        """Programs for one channel group of one image."""
        return self.parts * self.tiles[0] * self.tiles[1]


def axis_scales(
    size: Sequence[int], out_size: Sequence[int], geometry: Geometry
) -> tuple[int, int]:
    """For each axis the scale where it is a whole one, otherwise 0 for the nearest pixel."""
    height, width = (
        geometry.scale if geometry.is_whole(out, source) else 0
        for out, source in zip(out_size, size, strict=True)
    )
    return height, width


def plan_gather(
    size: tuple[int, int],
    out_size: tuple[int, int],
    geometry: Geometry,
    *,
    images: int,
    channels: int,
    channels_last: bool,
) -> Plan:
    """Cut the outputs; ``channels`` are those of one group, ``images`` counts groups too."""
    base, sub, scales = _base(size, out_size, geometry)
    tile, block, warps = _tile_of_map(
        base, channels, sub * sub, geometry.kernel_size, channels_last=channels_last
    )
    return _finish(base, sub, scales, tile, block, warps, images, channels)


def plan_correlate(
    size: tuple[int, int],
    out_size: tuple[int, int],
    geometry: Geometry,
    *,
    images: int,
    channels: int,
    channels_last: bool,
) -> Plan:
    """Cut the outputs; a program sums over all channels, which cannot be shared out."""
    base, sub, scales = _base(size, out_size, geometry)
    block = 1
    if channels_last:
        base, sub, scales = out_size, 1, axis_scales(size, out_size, geometry)
        block = min(_CORRELATED_CHANNELS, next_power_of_two(channels))
    sums = next_power_of_two(geometry.taps) * sub * sub * block
    pixels = min(max(_CORRELATED_SUMS // sums, 1), _LAST_PIXELS)
    while pixels > 16 and images * base[0] * base[1] < _ENOUGH_PROGRAMS * pixels:
        pixels //= 2
    tile = _tile(pixels, base, wide=not channels_last)
    return _finish(base, sub, scales, tile, block, _WARPS, images, channels, shared=False)


def plan_scatter(
    features: tuple[int, int],
    size: tuple[int, int],
    out_size: tuple[int, int],
    geometry: Geometry,
    *,
    images: int,
    channels: int,
    channels_last: bool,
) -> Plan:
    """Cut the features, margin included."""
    columns = scatter_columns(size[1], out_size[1])
    tile, block, warps = _tile_of_map(
        features, channels, columns, geometry.kernel_size, channels_last=channels_last
    )
    scales = axis_scales(size, out_size, geometry)
    return _finish(features, 1, scales, tile, block, warps, images, channels)


def scatter_columns(width: int, out_width: int) -> int:
    """Columns of the outputs above one source pixel that are summed side by side."""
    return min(next_power_of_two(-(-out_width // width)), _MOST_COLUMNS)


def can_be_indexed(*tensors: Tensor) -> bool:
    """Whether offsets within one image fit 32 bits, also those a tile's width past its end."""
    return all(
        sum((n - 1) * s for n, s in zip(t.shape[1:], t.stride()[1:], strict=True)) < 2**30
        for t in tensors
    )


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()


def _base(
    size: tuple[int, int], out_size: tuple[int, int], geometry: Geometry
) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """The lattice to cut, the outputs on each axis of its pixels, and the scales from it."""
    scales = axis_scales(size, out_size, geometry)
    if all(scales) and geometry.scale <= _MOST_SHARED:
        return size, geometry.scale, (1, 1)
    return out_size, 1, scales


def _tile_of_map(
    base: tuple[int, int], channels: int, sums: int, kernel_size: int, *, channels_last: bool
) -> tuple[tuple[int, int], int, int]:
    """Tile, block of channels and warps where each channel of a pixel has so many sums."""
    channels = next_power_of_two(channels)
    if channels_last:
        block = min(_LAST_CHANNELS, channels)
        return _tile(max(_LAST_PIXELS // sums, 8), base, wide=False), block, _WARPS
    tile = _tile(_PIXELS, base, wide=True)
    # As many threads as pixels: then everything that the inner loop reads has the same layout.
    warps = max(tile[0] * tile[1] // _LANES, 1)
    most = _LEAST_SUMS if kernel_size >= _LARGE_KERNEL else max(_SUMS // sums, _LEAST_SUMS)
    return tile, min(most, channels), warps


def _tile(pixels: int, base: tuple[int, int], *, wide: bool) -> tuple[int, int]:
    """Height and width of tiles of at most ``pixels``, a power of two, at most four times as wide.

    32 columns are a line of memory where they are contiguous.
    """
    columns = min(32 if wide else 8, 1 << (pixels.bit_length() + 1) // 2)
    columns = min(columns, pixels, next_power_of_two(base[1]))
    return min(pixels // columns, next_power_of_two(base[0])), columns


def _finish(
    base: tuple[int, int],
    sub: int,
    scales: tuple[int, int],
    tile: tuple[int, int],
    block: int,
    warps: int,
    images: int,
    channels: int,
    *,
    shared: bool = True,
) -> Plan:
    tiles = -(-base[0] // tile[0]), -(-base[1] // tile[1])
    blocks = -(-channels // block)
    parts = 1
    while shared and parts < blocks and parts * images * tiles[0] * tiles[1] < _ENOUGH_PROGRAMS:
        parts *= 2
    return Plan(base, sub, scales, tile, block, tiles, parts, -(-blocks // parts), warps)
