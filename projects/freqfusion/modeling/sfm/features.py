"""Maps on their way from a modulated backbone to a head that undoes the modulation."""

from __future__ import annotations

from collections.abc import Mapping

from detectron2.config import CfgNode
from torch import Tensor

from freqfusion.layers.sfm import MappingStack, NonUniformUpsample
from freqfusion.layers.sfm.inversion import INTERPOLATION_OF


class ModulatedMaps(dict[str, Tensor]):
    """The maps of a backbone by name, each with the stages that lie between it and the image.

    A dict, so that Detectron2's models hand it from the backbone to the head as it is.
    """

    def __init__(self, maps: Mapping[str, Tensor], mappings: Mapping[str, MappingStack]):
        super().__init__(maps)
        self.mappings = dict(mappings)


def mappings_of(features: Mapping[str, Tensor], name: str) -> MappingStack:
    """The stages of one map; none for maps that are not modulated, or not any more."""
    if isinstance(features, ModulatedMaps):
        return features.mappings.get(name, MappingStack())
    return MappingStack()


def build_demodulator(cfg: CfgNode) -> NonUniformUpsample:
    """How ``MODEL.SFM`` has mappings inverted."""
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
