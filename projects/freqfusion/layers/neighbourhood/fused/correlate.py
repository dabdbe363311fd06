"""The gradient of reassembly in its kernels as a Triton kernel.

Names of sizes are those of :mod:`.gather`.
"""

import triton
import triton.language as tl

from freqfusion.layers.neighbourhood.fused.lattice import (
    SIZES,
    source_pixel,
    split_program,
    store_pairs,
    tile_pixels,
)


@triton.jit(do_not_specialize=SIZES)
def correlate_kernel(
    values,
    features,
    kernels,
    v_b,
    v_c,
    v_h,
    v_w,
    f_b,
    f_c,
    f_h,
    f_w,
    k_b,
    k_c,
    k_h,
    k_w,
    tiles,
    tiles_x,
    groups,
    channels,
    height,
    width,
    source_h,
    source_w,
    out_h,
    out_w,
    base_h,
    base_w,
    offset,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    SUB: tl.constexpr,
    SCALE_Y: tl.constexpr,
    SCALE_X: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sum (TAPS, pixels, BLOCK_C) in registers for each of the SUB * SUB outputs of a base pixel.

    All taps of a pixel are summed at once, over all channels of the group, so that values and
    features are read from memory once; TAPS is KERNEL * KERNEL rounded up to a power of two. The
    BLOCK_C sums of a tap are added at the end. SUB is 1 or 2.
    """
    _, tile, group, image = split_program(1, tiles, groups)
    row, column = tile_pixels(tile, tiles_x, TILE_H, TILE_W)
    y, x = row * SUB, column * SUB
    inside = (row < base_h) & (column < base_w)
    inside_right = (inside & (x + 1 < out_w))[None, :, None]
    inside_below = (inside & (y + 1 < out_h))[None, :, None]
    inside = inside[None, :, None]
    tap = tl.arange(0, TAPS)
    line = (source_pixel(row, source_h, out_h, SCALE_Y) + offset)[None, :]
    line += ((tap // KERNEL) * DILATION)[:, None]
    place = (source_pixel(column, source_w, out_w, SCALE_X) + offset)[None, :]
    place += ((tap % KERNEL) * DILATION)[:, None]
    near = (line >= 0) & (line < height) & (place >= 0) & (place < width)
    near = (near & (tap < KERNEL * KERNEL)[:, None])[:, :, None]
    lane = tl.arange(0, BLOCK_C)
    value_at = (values + image * v_b + group * channels * v_c) + (lane * v_c)[None, None, :]
    value_at += (y * v_h + x * v_w)[None, :, None]
    feature_at = (features + image * f_b + group * channels * f_c) + (lane * f_c)[None, None, :]
    feature_at += (line * f_h + place * f_w)[:, :, None]
    total = tl.zeros([TAPS, TILE_H * TILE_W, BLOCK_C], ACC)
    total_right = total
    total_below = total
    total_both = total
    for first in range(0, channels, BLOCK_C):
        known = (first + lane < channels)[None, None, :]
        neighbour = tl.load(feature_at + first * f_c, mask=near & known, other=0.0).to(ACC)
        here = value_at + first * v_c
        total += neighbour * tl.load(here, mask=inside & known, other=0.0).to(ACC)
        if SUB == 2:
            value = tl.load(here + v_w, mask=inside_right & known, other=0.0)
            total_right += neighbour * value.to(ACC)
            value = tl.load(here + v_h, mask=inside_below & known, other=0.0)
            total_below += neighbour * value.to(ACC)
            value = tl.load(here + v_h + v_w, mask=inside_right & inside_below & known, other=0.0)
            total_both += neighbour * value.to(ACC)
    kernels += image * k_b + group * KERNEL * KERNEL * k_c
    kernel_at = kernels + (tap * k_c)[:, None] + (y * k_h + x * k_w)[None, :]
    taps = (tap < KERNEL * KERNEL)[:, None] & ((row < base_h) & (column < base_w))[None, :]
    if SUB == 2:
        total, total_right = tl.sum(total, 2), tl.sum(total_right, 2)
        store_pairs(kernel_at, total, total_right, taps, x, k_w, out_w)
        total_below, total_both = tl.sum(total_below, 2), tl.sum(total_both, 2)
        taps = taps & (y + 1 < out_h)[None, :]
        store_pairs(kernel_at + k_h, total_below, total_both, taps, x, k_w, out_w)
    else:
        tl.store(kernel_at, tl.sum(total, 2).to(kernels.dtype.element_ty), mask=taps)
