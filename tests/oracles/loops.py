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


def neighbours(size, out_size, geometry):
    """Every (tap, output row, output column, source row, source column) inside the features."""
    height, width = size
    g = geometry
    for tap, y, x in np.ndindex(g.kernel_size**2, *out_size):
        row, column = divmod(tap, g.kernel_size)
        sy = source_pixel(y, out_size[0], height - 2 * g.margin, g.scale) + g.margin
        sx = source_pixel(x, out_size[1], width - 2 * g.margin, g.scale) + g.margin
        sy += g.dilation * (row - g.kernel_size // 2)
        sx += g.dilation * (column - g.kernel_size // 2)
        if 0 <= sy < height and 0 <= sx < width:
            yield tap, y, x, sy, sx


def trilinear(features, kernels, values, geometry):
    """Gradients in values, kernels and features of the form behind gather, correlate and scatter.

    That is gather(features, kernels), correlate(values, features) and scatter(values, kernels).
    """
    results = [np.zeros(array.shape) for array in (values, kernels, features)]
    shape = (features.shape[0], geometry.groups, -1)
    x, m, y = (a.reshape(*shape, *a.shape[-2:]) for a in (features, kernels, values))
    in_y, in_m, in_x = (r.reshape(*shape, *r.shape[-2:]) for r in results)
    for tap, *out, sy, sx in neighbours(features.shape[-2:], values.shape[-2:], geometry):
        there, here = (..., sy, sx), (..., *out)
        weight = m[here][:, :, tap, None]
        in_y[here] += weight * x[there]
        in_x[there] += weight * y[here]
        in_m[here][:, :, tap] += (x[there] * y[here]).sum(-1)
    return results
