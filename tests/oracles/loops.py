"""Reassembly as the formula reads: a loop for every index."""

import numpy as np


def source_pixel(index, out, size, scale):
    if -(-out // scale) == size:
        return index // scale
    return index * size // out


def mirror(index, size):
    """Index of a pixel beyond the border, mirrored without repeating the edge."""
    if size == 1:
        return 0
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def reassemble(features, kernels, *, kernel_size, scale, groups, padding_mode):
    batch, channels, height, width = features.shape
    out_height, out_width = kernels.shape[-2:]
    reach = kernel_size // 2
    out = np.zeros((batch, channels, out_height, out_width))
    for b, c, y, x in np.ndindex(out.shape):
        group = c // (channels // groups)
        for row in range(kernel_size):
            for column in range(kernel_size):
                sy = source_pixel(y, out_height, height, scale) + row - reach
                sx = source_pixel(x, out_width, width, scale) + column - reach
                if padding_mode == "reflect":
                    sy, sx = mirror(sy, height), mirror(sx, width)
                if 0 <= sy < height and 0 <= sx < width:
                    tap = (group * kernel_size + row) * kernel_size + column
                    out[b, c, y, x] += kernels[b, tap, y, x] * features[b, c, sy, sx]
    return out
