"""Spatial Frequency Modulation around any Detectron2 backbone.

Chen et al., Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025. Where the
resampling goes follows its figure; the wrapper is our design.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from freqfusion.config_check.wrapped import is_supervised
from freqfusion.layers.checks import check_choice
from freqfusion.layers.sfm import (
    AdaptiveResampling,
    MappingStack,
    NonUniformUpsample,
    SemanticHighFreqAttention,
)
from freqfusion.layers.sfm.inversion import INTERPOLATION_OF, InverseGradient, InverseSolver
from freqfusion.modeling.sfm.demodulation import demodulate_in_place_of, unmoved
from freqfusion.modeling.sfm.features import ModulatedMaps
from freqfusion.modeling.sfm.insertion import InsertionPoint, Points, feature_strides, find_points
from freqfusion.modeling.sfm.maps import to_channels_first
from freqfusion.modeling.sfm.recording import (
    Modulations,
    Record,
    add_record,
    record_modulations,
    recorded_pass,
    report,
    stack_mappings,
)
from freqfusion.modeling.sfm.settings import build_wrapped, parse_points
from freqfusion.modeling.sfm.wrapping import WrappingBackbone
from freqfusion.modeling.timm_backbone import TimmBackbone

__all__ = ["Demodulate", "ModulatedBackbone", "Modulations", "record_modulations"]

Demodulate = Literal["exit", "head", "none"]
_PREFIX = "sfm"


class ModulatedBackbone(WrappingBackbone):
    """A backbone whose maps are resampled where their detail is, before each step makes them small.

    The wrapped backbone is not changed but for hooks. Its keys and its parameters' names are those
    without wrapping (see :class:`~freqfusion.modeling.sfm.wrapping.WrappingBackbone`), so published
    weights load; what is new has the prefix ``sfm.<feature>.``. Untrained, its maps are those of
    the bare backbone.

    Gradient checkpointing, autocast and any image size work as the wrapped backbone has them.
    Nothing is kept between calls. ``torch.compile`` takes it whole where it takes the backbone.

    Args:
        backbone: Any backbone without a pyramid; it belongs to this module afterwards.
        points: See :func:`~freqfusion.modeling.sfm.insertion.find_points`; {} modulates nothing.
        phases: Phases of some features' modules, where the layers do not tell.
        demodulate: What :meth:`forward` returns. ``"exit"``: every map brought back to the pixels
            that the bare backbone makes, for any head. ``"head"``: maps as they are, in spaces of
            their own, with the stages beside them; only for heads that undo these. ``"none"``: maps
            as they are, as if nothing had moved, to measure what the way back is worth.
        fwhm: Of the Gaussian that draws samples, ``radius`` of its window; in pixels of each map.
        strength: In [0, 1]: how far samples move.
        detach_grid: Let only the supervision of the attention teach it.
        frozen: Nothing teaches the attention: several processes must not wait for its gradients.
        ratio: The attention's pyramid has 1 / ratio of the map's channels.
        highpass: Give the attention a learnable high-pass filter.
        logit_bound: Of the attention; above 2 the samples' order is not guaranteed.
        solver: How mappings are inverted; ``solver_iters``: Newton steps at most.
        grad: ``"values"``: at the exit, gradients reach the maps only; ``"implicit"``: the
            positions too.

    Raises:
        ValueError: if the arguments do not fit together, or the backbone has no such points.
    """

    upsample: NonUniformUpsample

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        points: Points = "auto",
        phases: Mapping[str, float] | None = None,
        demodulate: Demodulate = "exit",
        fwhm: float = 3.0,
        radius: int = 5,
        strength: float = 1.0,
        detach_grid: bool = False,
        frozen: bool = False,
        ratio: int = 16,
        highpass: bool = True,
        logit_bound: float = 2.0,
        solver: InverseSolver = "newton",
        solver_iters: int = 20,
        grad: InverseGradient = "values",
    ):
        check_choice(Demodulate, demodulate=demodulate)
        if _PREFIX in backbone._modules:
            raise ValueError(
                f"{type(backbone).__name__} has a part named {_PREFIX!r} already: it cannot be "
                "modulated (twice)"
            )
        check_choice(InverseSolver, solver=solver)
        upsample = NonUniformUpsample(
            solver=solver, interp=INTERPOLATION_OF[solver], grad=grad, iters=solver_iters
        )
        found = find_points(backbone, points, phases)
        heads = {
            point.feature: AdaptiveResampling(
                channels=point.channels,
                fwhm=fwhm,
                radius=radius,
                strength=strength,
                detach_grid=detach_grid,
                attention=SemanticHighFreqAttention(
                    channels=point.channels,
                    ratio=ratio,
                    highpass=highpass,
                    logit_bound=logit_bound,
                ),
            )
            for point in found
            if point.is_modulated
        }
        super().__init__(backbone)
        self.demodulation: Demodulate = demodulate
        self.points = found
        # Without parameters, and not in the tree: its keys would not be the wrapped backbone's.
        self.__dict__["upsample"] = upsample
        if heads:
            self.add_module(_PREFIX, nn.ModuleDict(heads).requires_grad_(not frozen))
        for point in found:
            module = backbone.get_submodule(point.path)
            module.register_forward_pre_hook(partial(self._resample, point))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.SFM``."""
        node = cfg.MODEL.SFM
        points, phases = parse_points(node.POINTS)
        is_idle = node.STRENGTH == 0 and node.EDGE_LOSS_WEIGHT == 0
        supervised = is_supervised(cfg) and node.EDGE_LOSS_WEIGHT > 0
        return {
            "backbone": build_wrapped(cfg, input_shape),
            "points": {} if is_idle else points,
            "phases": {} if is_idle else phases,
            "demodulate": node.DEMODULATE,
            "fwhm": node.FWHM,
            "radius": node.RADIUS,
            "strength": node.STRENGTH,
            "detach_grid": node.DETACH_GRID,
            "frozen": not supervised and (node.DETACH_GRID or node.STRENGTH == 0),
            "ratio": node.PSP_RATIO,
            "highpass": node.HIGHPASS,
            "logit_bound": node.LOGIT_BOUND,
            "solver": node.SOLVER,
            "solver_iters": node.SOLVER_ITERS,
            "grad": node.GRAD,
        }

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to maps with the names and the sizes of the wrapped backbone's.

        With ``demodulate`` "head" they are ``ModulatedMaps``, a dict that has their stages with it;
        those of a ``TimmBackbone`` are not cropped to the image then.
        """
        features, mappings, _ = self.forward_with_mappings(images)
        if self.demodulation == "head":
            return ModulatedMaps(features, mappings)
        if self.demodulation == "exit":
            features = {
                name: demodulate_in_place_of(maps, mappings[name], self.upsample)
                for name, maps in features.items()
            }
        if self._crops:
            features = self._crop(features, images)
        return features

    def forward_with_mappings(
        self, images: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, MappingStack], dict[str, Tensor]]:
        """The maps in their modulated spaces, whatever ``demodulate`` says, and the way back.

        Maps of a ``TimmBackbone`` cover the image after padding to a multiple of
        ``size_divisibility``, as Detectron2 pads batches anyway.

        Returns:
            The maps; the stages under each feature, none for a map in the image's own space; the
            attention's logits (B, 1, H, W) for each feature that is resampled.

        Raises:
            RuntimeError: if a map does not have the size that the stages give it.
        """
        if self._crops:
            images = self._pad(images)
        with recorded_pass() as records:
            features: dict[str, Tensor] = self.wrapped(images)
        mappings = stack_mappings(self.points, records, feature_strides(self.wrapped), features)
        logits = {name: r.logits for name, r in records.items() if r.logits is not None}
        report(Modulations(mappings, logits))
        return features, mappings, logits

    def extra_repr(self) -> str:
        """What is wrapped and where it is resampled."""
        places = ", ".join(f"{p.feature} before {p.path}" for p in self.points if p.is_modulated)
        return f"{type(self.wrapped).__name__}, {places or 'no points'}, {self.demodulation}"

    def _resample(self, point: InsertionPoint, _: nn.Module, args: tuple[Any, ...]) -> Any:
        """Before a step to a smaller map: resample the map that it takes."""
        maps, restore = to_channels_first(
            args,
            channels=point.channels,
            channels_last=point.channels_last,
            where=f"the module {point.path}",
        )
        step = point.geometry
        out_size = step.out_size((maps.shape[-2], maps.shape[-1]))
        if not point.is_modulated:
            add_record(
                point.feature, Record(unmoved(maps, step.stride, step.phase, out_size), None)
            )
            return None
        heads: Any = self.sfm
        resampled, mapping, logits = heads[point.feature](maps, step.stride, step.phase, out_size)
        add_record(point.feature, Record(mapping, logits))
        return (restore(resampled), *args[1:])

    @property
    def _crops(self) -> bool:
        """Whether the backbone pads and crops; what it would cut off is needed to demodulate."""
        return isinstance(self.wrapped, TimmBackbone)

    def _pad(self, images: Tensor) -> Tensor:
        divisor = self.size_divisibility
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % divisor, 0, -height % divisor))

    def _crop(self, features: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
        shapes = self.output_shape()
        height, width = images.shape[-2:]
        return {
            name: maps[..., : -(-height // shapes[name].stride), : -(-width // shapes[name].stride)]
            for name, maps in features.items()
        }
