"""DCNv3 as the formula reads: a loop for every index; pixels outside the map are zero."""

import numpy as np


def loops(
    value,
    offsets,
    weights,
    *,
    kernel_size,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    offset_scale=1.0,
):
    batch, channels = value.shape[0], value.shape[3]
    _, out_height, out_width, _ = weights.shape
    size = channels // groups
    middle = kernel_size // 2
    out = np.zeros((batch, out_height, out_width, channels))
    for b, i, j, g in np.ndindex(batch, out_height, out_width, groups):
        # The middle of the kernel, whose first tap lies at -padding for the first output pixel.
        y0 = i * stride - padding + dilation * middle
        x0 = j * stride - padding + dilation * middle
        for column, row in np.ndindex(kernel_size, kernel_size):
            tap = (g * kernel_size + column) * kernel_size + row
            shift_x, shift_y = offsets[b, i, j, 2 * tap], offsets[b, i, j, 2 * tap + 1]
            x = x0 + offset_scale * (dilation * (column - middle) + shift_x)
            y = y0 + offset_scale * (dilation * (row - middle) + shift_y)
            part = slice(g * size, (g + 1) * size)
            out[b, i, j, part] += weights[b, i, j, tap] * bilinear(value[b, :, :, part], x, y)
    return out


def bilinear(image, x, y):
    height, width, channels = image.shape
    total = np.zeros(channels)
    left, top = int(np.floor(x)), int(np.floor(y))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return total
