"""Mask2Former's pixel decoder on modulated maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import Tensor, nn

from freqfusion.layers.sfm import Mapping as Stage
from freqfusion.layers.sfm import MappingStack, ThreePointReassembly
from freqfusion.modeling.mask2former.pixel_decoder import NUM_MAPS, FreqFusionPixelDecoder
from freqfusion.modeling.sfm.demodulation import (
    build_demodulator,
    demodulate_in_place_of,
    mappings_of,
)


@SEM_SEG_HEADS_REGISTRY.register()
class SFMPixelDecoder(FreqFusionPixelDecoder):
    """The pixel decoder for maps that adaptive resampling has left in spaces of their own.

    The encoder and all its maps are in the image's space: each of its inputs is demodulated at its
    own size, which costs a part of the detail that modulation has saved. A second, modulated path
    keeps it for the masks: the projected maps join from coarse to fine by
    :class:`~freqfusion.layers.sfm.ThreePointReassembly`, each hop undoing the one stage between two
    maps, and the last hop adds them to the lateral map that mask features are made of. A gain per
    channel, 0 at the start, multiplies what that hop reads, so that a new model with attention of
    zero, or one with published weights, is the original. All of this is our design; published is
    that a pyramid reads three points and reassembles (Chen et al., Spatial Frequency Modulation,
    TPAMI 2025). Further parameters are those of ``FreqFusionPixelDecoder``.

    Without a ``demodulator`` it is that decoder, same keys and same numbers, for maps that are not
    modulated.
    """

    def _add_parts(self, conv_dim: int) -> None:
        self.used = (*self.encoder_features, *self.lateral_features)
        # Without a lateral map the masks are made of the encoder's, and there is no hop to add to.
        if self.demodulator is not None and self.lateral_features:
            hops = len(self.used) - 1
            self.reassemblies = nn.ModuleList(
                ThreePointReassembly(channels=conv_dim) for _ in range(hops)
            )
            self.gain = nn.Parameter(torch.zeros(conv_dim, 1, 1))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Return arguments from ``MODEL.MASK2FORMER``, ``MODEL.FREQFUSION`` and ``MODEL.SFM``."""
        modulated = cfg.MODEL.SFM.ENABLED and cfg.MODEL.SFM.DEMODULATE == "head"
        demodulator = build_demodulator(cfg) if modulated else None
        return super().from_config(cfg, input_shape) | {"demodulator": demodulator}

    def forward_features(
        self, features: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Decode the maps of a backbone, see ``DeformableAttentionPixelDecoder``.

        The last of the modulated maps must be reached from the finest one stage at a time.
        """
        self._check_inputs(features)
        stacks = {name: mappings_of(features, name) for name in self.used}
        if self.demodulator is None:
            if any(stacks.values()):
                raise ValueError(
                    "the maps are still modulated, which this pixel decoder was not built for: set "
                    'MODEL.SFM.DEMODULATE "exit", or build it with "head"'
                )
            return super().forward_features(features)
        maps = [
            projection(features[name])
            for name, projection in zip(self.encoder_features, self.input_proj, strict=True)
        ]
        laterals = [
            self.get_submodule(f"adapter_{number}")(features[name])
            for number, name in self._numbered_laterals()
        ]
        if laterals:
            laterals[-1] = self._with_detail([*maps, *laterals], stacks)
        exits = [
            demodulate_in_place_of(image, stacks[name], self.demodulator)
            for name, image in zip(self.used, [*maps, *laterals], strict=True)
        ]
        maps = self.transformer(self.mix(exits[: len(maps)]))
        for hop, (number, _) in enumerate(self._numbered_laterals()):
            joined = self.join(hop, exits[len(self.encoder_features) + hop], maps[-1])
            maps.append(self.get_submodule(f"layer_{number}")(joined))
        return self.mask_features(maps[-1]), maps[0], maps[:NUM_MAPS]

    def _with_detail(self, maps: list[Tensor], stacks: Mapping[str, MappingStack]) -> Tensor:
        """Return the last of the maps, coarse to fine, plus what the others keep for it."""
        detail = maps[0]
        for hop, fine in enumerate(maps[1:]):
            mapping = step_between(stacks[self.used[hop + 1]], stacks[self.used[hop]], fine, detail)
            last = hop == len(maps) - 2
            coarse = self.gain.to(detail.dtype) * detail if last else detail
            detail = self.reassemblies[hop](fine, coarse, mapping)
        return detail


def step_between(fine: MappingStack, coarse: MappingStack, like: Tensor, source: Tensor) -> Stage:
    """Return the one stage between two maps of a backbone.

    Where a step was not modulated it is the stage that moves nothing, with the positions of pixels
    that resizing has.

    Args:
        fine: The stages between the image and the finer map.
        coarse: Those between the image and the coarser one, which begin with the same.
        like: The finer map.
        source: The coarser one.

    Raises:
        ValueError: if more than one stage lies between them.
    """
    between = coarse[len(fine) :]
    if len(between) > 1:
        raise ValueError(
            f"{len(between)} resamplings lie between two maps of the pixel decoder, which undoes "
            "one in a hop: name all maps of the backbone in MODEL.MASK2FORMER.IN_FEATURES"
        )
    if between:
        return between[0]
    stride = max(round(like.shape[-1] / source.shape[-1]), round(like.shape[-2] / source.shape[-2]))
    return Stage(
        displacement=like.new_zeros(like.shape[0], 2, *like.shape[-2:], dtype=torch.float32),
        align_corners=False,
        stride=max(stride, 1),
        phase=(max(stride, 1) - 1) / 2,
        out_size=(source.shape[-2], source.shape[-1]),
    )
