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
    remove_center=False,
):
    batch, channels = value.shape[0], value.shape[3]
    _, out_height, out_width, _ = weights.shape
    size = channels // groups
    rows, columns = pair(kernel_size)
    (stride_y, stride_x), (pad_y, pad_x), (step_y, step_x) = map(pair, (stride, padding, dilation))
    # Pixels from the first tap to the middle, rounded down.
    middle_y, middle_x = step_y * (rows - 1) // 2, step_x * (columns - 1) // 2
    taps = [(column, row) for column in range(columns) for row in range(rows)]
    if remove_center:
        taps.remove((columns // 2, rows // 2))
    out = np.zeros((batch, out_height, out_width, channels))
    for b, i, j, g in np.ndindex(batch, out_height, out_width, groups):
        # The middle of the kernel, whose first tap lies at -padding for the first output pixel.
        y0 = i * stride_y - pad_y + middle_y
        x0 = j * stride_x - pad_x + middle_x
        for number, (column, row) in enumerate(taps):
            tap = g * len(taps) + number
            shift_x, shift_y = offsets[b, i, j, 2 * tap], offsets[b, i, j, 2 * tap + 1]
            x = x0 + offset_scale * (step_x * column - middle_x + shift_x)
            y = y0 + offset_scale * (step_y * row - middle_y + shift_y)
            part = slice(g * size, (g + 1) * size)
            out[b, i, j, part] += weights[b, i, j, tap] * bilinear(value[b, :, :, part], x, y)
    return out


def pair(number):
    return (number, number) if isinstance(number, int) else number


def bilinear(image, x, y):
    height, width, channels = image.shape
    total = np.zeros(channels)
    left, top = int(np.floor(x)), int(np.floor(y))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total += (1 - abs(x - column)) * (1 - abs(y - row)) * image[row, column]
    return total
