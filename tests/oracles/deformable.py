"""Deformable attention: as the formula reads, and as it is done without a kernel of its own."""

import numpy as np
import torch
import torch.nn.functional as F


def loops(value, shapes, locations, weights):
    """A loop for every index; pixels outside a map are zero."""
    batch, _, heads, channels = value.shape
    _, queries, _, levels, points, _ = locations.shape
    out = np.zeros((batch, queries, heads, channels))
    for b, q, head, level, point in np.ndindex(batch, queries, heads, levels, points):
        height, width = shapes[level]
        start = sum(h * w for h, w in shapes[:level])
        x = locations[b, q, head, level, point, 0] * width - 0.5
        y = locations[b, q, head, level, point, 1] * height - 0.5
        left, top = int(np.floor(x)), int(np.floor(y))
        for row in (top, top + 1):
            for column in (left, left + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(x - column)) * (1 - abs(y - row))
                    pixel = value[b, start + row * width + column, head]
                    out[b, q, head] += weights[b, q, head, level, point] * share * pixel
    return out.reshape(batch, queries, heads * channels)


def sampled(value, shapes, locations, weights):
    """All samples of all levels by grid_sample, then their weighted sum."""
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    maps = value.split([height * width for height, width in shapes], dim=1)
    samples = []
    for level, (height, width) in enumerate(shapes):
        image = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = (2 * locations[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(image, grid, padding_mode="zeros", align_corners=False))
    every = torch.cat(samples, dim=-1)
    weight = weights.flatten(3).transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    out = (every * weight).sum(-1)
    return out.view(batch, heads * channels, queries).transpose(1, 2).contiguous()
