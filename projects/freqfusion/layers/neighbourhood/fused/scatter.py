"""The gradient of reassembly in its features as a Triton kernel.

Names of sizes are those of :mod:`.gather`.
"""

import triton
import triton.language as tl

from freqfusion.layers.neighbourhood.fused.lattice import (
    SIZES,
    first_output,
    split_program,
    tile_pixels,
)


@triton.jit(do_not_specialize=SIZES)
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
