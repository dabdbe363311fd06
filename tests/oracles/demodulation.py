"""Demodulation with scipy's Delaunay triangulation, and an inverse that tries every triangle."""

import numpy as np
import torch


def delaunay(features, displacement):
    """Triangulate where the samples were taken; interpolate at every pixel, one image at a time.

    The published form: qhull finds the nodes and barycentric coordinates of each pixel, the values
    are read from them. Pixels outside the hull of the samples are NaN.
    """
    from scipy.spatial import Delaunay

    height, width = features.shape[-2:]
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    pixels = np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
    outputs = []
    for image, shift in zip(features, displacement, strict=True):
        triangles = Delaunay(pixels + shift.flatten(1).t().numpy())
        index = triangles.find_simplex(pixels)
        transform = triangles.transform[index]
        weights = np.einsum("pij,pj->pi", transform[:, :2], pixels - transform[:, 2])
        weights = np.concatenate([weights, 1 - weights.sum(1, keepdims=True)], axis=1)
        weights[index < 0] = np.nan
        nodes = torch.from_numpy(triangles.simplices[index]).long()
        output = 0
        for corner, weight in zip(nodes.unbind(1), weights.T, strict=True):
            values = image.flatten(1).index_select(1, corner)
            output = output + values * torch.from_numpy(weight).to(image.dtype)
        outputs.append(output.view_as(image))
    return torch.stack(outputs)


def invert_by_trial(displacement, goals):
    """Pixels m (P, 2) of one image's displacement (2, H, W) that are mapped to goals (P, 2).

    Solves for the barycentric coordinates in every triangle of every cell and takes the triangle
    whose smallest coordinate is the largest.
    """
    _, height, width = displacement.shape
    found = []
    for goal in goals:
        best = (-np.inf, None)
        for row, column in np.ndindex(height - 1, width - 1):
            for corners in (((0, 0), (0, 1), (1, 0)), ((1, 1), (1, 0), (0, 1))):
                nodes = np.array([(column + right, row + below) for below, right in corners])
                places = nodes + np.array([displacement[:, y, x] for x, y in nodes])
                weights = np.linalg.solve(np.vstack([places.T, np.ones(3)]), [*goal, 1])
                if weights.min() > best[0]:
                    best = (weights.min(), weights @ nodes)
        found.append(best[1])
    return np.array(found)
