"""Index arithmetic that the Triton kernels share; :mod:`..geometry` holds the same rules.

An axis is described by one constant ``SCALE``: the whole-number scale where the output is that many
times the source (cropped or not), 0 for any other ratio, which takes the nearest source pixel.
"""

import triton
import triton.language as tl


@triton.jit
def source_pixel(index, size, out, SCALE: tl.constexpr):
    """Source pixel under output pixel ``index`` of an axis that maps ``size`` to ``out``."""
    if SCALE == 1:
        source = index
    elif SCALE > 0:
        source = index // SCALE
    else:
        source = (index.to(tl.int64) * size // out).to(tl.int32)
    return source


@triton.jit
def first_output(source, size, out, SCALE: tl.constexpr):
    """First output pixel above ``source`` (0 to ``size``); the next source pixel's ends its run.

    The inverse of :func:`source_pixel`, which never decreases: ``index * size // out >= source``
    from ``index = ceil(source * out / size)`` on.
    """
    if SCALE > 0:
        first = tl.minimum(source * SCALE, out)
    else:
        first = ((source.to(tl.int64) * out + size - 1) // size).to(tl.int32)
    return first


@triton.jit
def split_program(parts, tiles, groups):
    """Which part of the channels, tile, group and image this program computes.

    Parts vary fastest: programs that read the same weights run side by side and share them in the
    second-level cache.
    """
    program = tl.program_id(0)
    part = program % parts
    tile = program // parts % tiles
    image = program // parts // tiles
    return part, tile, image % groups, (image // groups).to(tl.int64)


@triton.jit
def tile_pixels(tile, tiles_x, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Row and column of each pixel of a tile, as two lines of TILE_H * TILE_W numbers."""
    pixel = tl.arange(0, TILE_H * TILE_W)
    row = (tile // tiles_x) * TILE_H + pixel // TILE_W
    column = (tile % tiles_x) * TILE_W + pixel % TILE_W
    return row, column


@triton.jit
def store_pairs(pointers, left, right, mask, x, stride, out_w):
    """Store two outputs side by side on each axis of pixels, the second only where it exists."""
    side = tl.arange(0, 2)[None, None, :]
    pair = tl.join(left, right).to(pointers.dtype.element_ty)
    pair_mask = mask[:, :, None] & (x[None, :, None] + side < out_w)
    tl.store(pointers[:, :, None] + side * stride, pair, mask=pair_mask)


# Sizes that say nothing about alignment: without this, maps whose width happens to be a multiple of
# 16 would have every kernel compiled again.
SIZES = [
    "parts",
    "tiles",
    "tiles_x",
    "groups",
    "chunks",
    "channels",
    "height",
    "width",
    "source_h",
    "source_w",
    "out_h",
    "out_w",
    "base_h",
    "base_w",
    "offset",
]
