"""Reassembly as a Triton kernel; :mod:`.launch` starts it.

Names of sizes: ``height, width`` of the features with their margin, ``source_*`` without it,
``out_*`` of values and kernels, ``base_*`` of the lattice that is cut into tiles. ``offset`` is the
first tap's place relative to the source pixel. Every tensor comes with its four strides, so that
contiguous, channels-last and sliced tensors are all read where they lie. Offsets within one image
are 32-bit (the launcher sees to that they fit); that of the image is 64.
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
def gather_kernel(
    features,
    kernels,
    values,
    f_b,
    f_c,
    f_h,
    f_w,
    k_b,
    k_c,
    k_h,
    k_w,
    v_b,
    v_c,
    v_h,
    v_w,
    parts,
    tiles,
    tiles_x,
    groups,
    chunks,
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
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sum (BLOCK_C, pixels) in registers for each of the SUB * SUB outputs of a base pixel.

    SUB is 1 or 2. The four sums of SUB = 2 have names of their own, and all tensors of the inner
    loop one layout, since otherwise the compiler moves every neighbour through shared memory.
    ``chunks`` is the number of blocks of channels that one program goes through.
    """
    part, tile, group, image = split_program(parts, tiles, groups)
    row, column = tile_pixels(tile, tiles_x, TILE_H, TILE_W)
    y, x = row * SUB, column * SUB
    inside = (row < base_h) & (column < base_w)
    inside_right = inside & (x + 1 < out_w)
    inside_below = inside & (y + 1 < out_h)
    inside_both = inside_right & inside_below
    kernels += image * k_b + group * KERNEL * KERNEL * k_c
    weight_at = kernels + (y * k_h + x * k_w)
    top = source_pixel(row, source_h, out_h, SCALE_Y) + offset
    left = source_pixel(column, source_w, out_w, SCALE_X) + offset
    lane = tl.arange(0, BLOCK_C)
    for chunk in range(part * chunks, part * chunks + chunks):
        channel = chunk * BLOCK_C + lane
        known = (channel < channels)[:, None]
        feature_at = ((features + image * f_b) + (group * channels + channel) * f_c)[:, None]
        total = tl.zeros([BLOCK_C, TILE_H * TILE_W], ACC)
        total_right = total
        total_below = total
        total_both = total
        for down in range(KERNEL):
            line = top + down * DILATION
            on_line = (line >= 0) & (line < height)
            for right in tl.static_range(KERNEL):
                place = left + right * DILATION
                near = on_line & (place >= 0) & (place < width)
                neighbour = tl.load(
                    feature_at + (line * f_h + place * f_w)[None, :],
                    mask=known & near[None, :],
                    other=0.0,
                ).to(ACC)
                tap = weight_at + (down * KERNEL + right) * k_c
                weight = tl.load(tap, mask=inside, other=0.0)
                total += neighbour * weight.to(ACC)[None, :]
                if SUB == 2:
                    weight = tl.load(tap + k_w, mask=inside_right, other=0.0)
                    total_right += neighbour * weight.to(ACC)[None, :]
                    weight = tl.load(tap + k_h, mask=inside_below, other=0.0)
                    total_below += neighbour * weight.to(ACC)[None, :]
                    weight = tl.load(tap + k_h + k_w, mask=inside_both, other=0.0)
                    total_both += neighbour * weight.to(ACC)[None, :]
        value_at = ((values + image * v_b) + (group * channels + channel) * v_c)[:, None]
        value_at += (y * v_h + x * v_w)[None, :]
        if SUB == 2:
            store_pairs(value_at, total, total_right, known & inside[None, :], x, v_w, out_w)
            below = known & inside_below[None, :]
            store_pairs(value_at + v_h, total_below, total_both, below, x, v_w, out_w)
        else:
            tl.store(value_at, total.to(values.dtype.element_ty), mask=known & inside[None, :])
