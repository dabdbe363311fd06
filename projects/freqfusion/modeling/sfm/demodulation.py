"""Bring the maps of a modulated backbone back to the image, each at its own resolution."""

from __future__ import annotations

from collections.abc import Mapping as Named

import torch
from detectron2.config import CfgNode
from torch import Tensor

from freqfusion.layers.sampling import lattice_points_of
from freqfusion.layers.sfm import (
    Mapping,
    MappingStack,
    NonUniformUpsample,
    interpolate_at,
    invert_displacement,
    modulate,
)
from freqfusion.layers.sfm.inversion import INTERPOLATION_OF


def demodulate_in_place_of(
    features: Tensor, mappings: MappingStack, upsample: NonUniformUpsample
) -> Tensor:
    """Read modulated features at the positions of the pixels that the bare backbone would make.

    Here the lattice of the small map itself is inverted, as the published non-uniform upsampling
    triangulates the positions of the samples that there are. Composing the inverses of all stages
    knows positions between them, but reading in between does not: on smooth images that leaves
    1.1 to 4 times the error. Pixels outside of all samples take the nearest position.

    Args:
        features: (B, C, H, W), the map after the last stage of ``mappings``.
        mappings: The stages; without any the features are returned as they are.
        upsample: How mappings are inverted and features read.
    """
    if not mappings:
        return features
    with torch.set_grad_enabled(torch.is_grad_enabled() and upsample.grad == "implicit"):
        points, _ = invert_displacement(
            composed_displacement(mappings),
            solver=upsample.solver,
            iters=upsample.iters,
            align_corners=mappings[-1].align_corners,
            grad=upsample.grad,
        )
    return upsample.read(features, points, mappings)


def composed_displacement(mappings: MappingStack) -> Tensor:
    """Return how far all stages have moved each pixel of the last downsampled map.

    (B, 2, H, W), x then y, in pixels of that map. Strides and phases are taken out, so that stages
    which move nothing give zero. The displacement goes through the stages as the maps do: a stage
    reads the small map of the one before between its pixels, hence also where they came from.
    """
    total = torch.zeros_like(mappings[0].displacement)
    for stage in mappings:
        moved = modulate(total, stage.displacement, align_corners=stage.align_corners)
        moved = moved + stage.displacement
        lattice = lattice_points_of(moved, stage.out_size, stage.align_corners)
        total = interpolate_at(
            moved, stage.from_downsampled(lattice), align_corners=stage.align_corners
        )
        total = total / stage.stride
    return total


def unmoved(maps: Tensor, stride: int, phase: float, out_size: tuple[int, int]) -> Mapping:
    """Return the mapping of a stage that only downsamples ``maps`` (B, C, H, W)."""
    dtype = torch.promote_types(maps.dtype, torch.float32)
    zeros = maps.new_zeros((maps.shape[0], 2, *maps.shape[-2:]), dtype=dtype)
    return Mapping(zeros, False, stride, phase, out_size)


class ModulatedMaps(dict[str, Tensor]):
    """The maps of a backbone by name, each with the stages that lie between it and the image.

    A dict, so that Detectron2's models hand it from the backbone to the head as it is.
    """

    def __init__(self, maps: Named[str, Tensor], mappings: Named[str, MappingStack]):
        super().__init__(maps)
        self.mappings = dict(mappings)


def mappings_of(features: Named[str, Tensor], name: str) -> MappingStack:
    """Return the stages of one map; none for maps that are not modulated, or not any more."""
    if isinstance(features, ModulatedMaps):
        return features.mappings.get(name, MappingStack())
    return MappingStack()


def build_demodulator(cfg: CfgNode) -> NonUniformUpsample:
    """Build the demodulator that ``MODEL.SFM`` describes."""
    node = cfg.MODEL.SFM
    if node.SOLVER not in INTERPOLATION_OF:
        raise ValueError(
            f"MODEL.SFM.SOLVER must be one of {', '.join(INTERPOLATION_OF)}; got {node.SOLVER!r}"
        )
    return NonUniformUpsample(
        solver=node.SOLVER,
        interp=INTERPOLATION_OF[node.SOLVER],
        grad=node.GRAD,
        iters=node.SOLVER_ITERS,
    )
