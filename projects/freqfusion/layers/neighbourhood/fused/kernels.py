"""The three sums over neighbourhoods as Triton kernels; :mod:`.launch` starts them.

Names of sizes: ``height, width`` of the features with their margin, ``source_*`` without it,
``out_*`` of values and kernels, ``base_*`` of the lattice that is cut into tiles. ``offset`` is the
first tap's place relative to the source pixel. Every tensor comes with its four strides, so that
contiguous, channels-last and sliced tensors are all read where they lie.

Offsets within one image are 32-bit (the launcher sees to that they fit); that of the image is 64.
"""

import triton
import triton.language as tl

from freqfusion.layers.neighbourhood.fused.lattice import (
    first_output,
    source_pixel,
    split_program,
    tile_pixels,
)


@triton.jit
def store_pairs(pointers, left, right, mask, x, stride, out_w):
    """Store two outputs side by side on each axis of pixels, the second only where it exists."""
    side = tl.arange(0, 2)[None, None, :]
    pair = tl.join(left, right).to(pointers.dtype.element_ty)
    pair_mask = mask[:, :, None] & (x[None, :, None] + side < out_w)
    tl.store(pointers[:, :, None] + side * stride, pair, mask=pair_mask)


# Sizes that say nothing about alignment: without this, maps whose width happens to be a multiple of
# 16 would have every kernel compiled again.
_SIZES = [
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


@triton.jit(do_not_specialize=_SIZES)
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


@triton.jit(do_not_specialize=_SIZES)
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


@triton.jit(do_not_specialize=_SIZES)
def scatter_kernel(
    values,
    kernels,
    features,
    v_b,
    v_c,
    v_h,
    v_w,
    k_b,
    k_c,
    k_h,
    k_w,
    f_b,
    f_c,
    f_h,
    f_w,
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
    offset,
    run_y,
    run_x,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    SUBS: tl.constexpr,
    SCALE_Y: tl.constexpr,
    SCALE_X: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sum, for each feature, over the output pixels that read it: nothing is added atomically.

    The outputs above one source pixel are a run of at most ``run_y`` rows and ``run_x`` columns,
    whatever the ratio. SUBS of its columns are read and summed side by side, (BLOCK_C, pixels,
    SUBS), and added at the end. The order of the sum is fixed.
    """
    part, tile, group, image = split_program(parts, tiles, groups)
    row, column = tile_pixels(tile, tiles_x, TILE_H, TILE_W)
    inside = (row < height) & (column < width)
    sub = tl.arange(0, SUBS)
    lane = tl.arange(0, BLOCK_C)
    kernels += image * k_b + group * KERNEL * KERNEL * k_c
    for chunk in range(part * chunks, part * chunks + chunks):
        channel = chunk * BLOCK_C + lane
        known = channel < channels
        all_values_at = (values + image * v_b) + (group * channels + channel) * v_c
        total = tl.zeros([BLOCK_C, TILE_H * TILE_W, SUBS], ACC)
        for down in range(KERNEL):
            line = row - offset - down * DILATION
            on_line = inside & (line >= 0) & (line < source_h)
            line = tl.where(on_line, line, 0)
            first_y = first_output(line, source_h, out_h, SCALE_Y)
            end_y = first_output(line + 1, source_h, out_h, SCALE_Y)
            for right in tl.static_range(KERNEL):
                place = column - offset - right * DILATION
                near = on_line & (place >= 0) & (place < source_w)
                place = tl.where(near, place, 0)
                first_x = first_output(place, source_w, out_w, SCALE_X)
                end_x = first_output(place + 1, source_w, out_w, SCALE_X)
                for down_sub in range(run_y):
                    y = first_y + down_sub
                    reads = near & (y < end_y)
                    for right_sub in range(0, run_x, SUBS):
                        x = first_x[:, None] + right_sub + sub[None, :]
                        mask = reads[:, None] & (x < end_x[:, None])
                        weight = tl.load(
                            kernels + (down * KERNEL + right) * k_c + (y[:, None] * k_h + x * k_w),
                            mask=mask,
                            other=0.0,
                        )
                        value = tl.load(
                            all_values_at[:, None, None] + (y[:, None] * v_h + x * v_w)[None, :, :],
                            mask=known[:, None, None] & mask[None, :, :],
                            other=0.0,
                        )
                        total += value.to(ACC) * weight.to(ACC)[None, :, :]
        tl.store(
            ((features + image * f_b) + (group * channels + channel) * f_c)[:, None]
            + (row * f_h + column * f_w)[None, :],
            tl.sum(total, 2).to(features.dtype.element_ty),
            mask=known[:, None] & inside[None, :],
        )
