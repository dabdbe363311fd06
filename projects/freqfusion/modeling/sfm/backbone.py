"""Spatial Frequency Modulation around any Detectron2 backbone.

Chen et al., Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025. Where the
resampling goes follows its figure; how it gets there is our design.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Literal

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from freqfusion.config import is_supervised, modulates
from freqfusion.layers.checks import check_choice
from freqfusion.layers.sfm import (
    AdaptiveResampling,
    MappingStack,
    NonUniformUpsample,
    SemanticHighFreqAttention,
)
from freqfusion.layers.sfm.inversion import INTERPOLATION_OF, InverseGradient, InverseSolver
from freqfusion.modeling.backbone import build_p2_to_p6
from freqfusion.modeling.sfm.demodulation import ModulatedMaps, demodulate_in_place_of, unmoved
from freqfusion.modeling.sfm.geometry import to_channels_first
from freqfusion.modeling.sfm.insertion import InsertionPoint, Points, feature_strides, find_points
from freqfusion.modeling.sfm.recording import (
    Modulations,
    Record,
    add_record,
    record_modulations,
    recorded_pass,
    report,
    stack_mappings,
)
from freqfusion.modeling.timm_backbone import TimmBackbone

__all__ = [
    "Demodulate",
    "ModulatedBackbone",
    "Modulations",
    "modulate_backbone",
    "record_modulations",
]

logger = logging.getLogger(__name__)

Demodulate = Literal["exit", "head", "none"]
_PREFIX = "sfm"


# About maps that leave the backbone modulated and reach a plain head.
NEEDS_A_HEAD = (
    'MODEL.SFM.DEMODULATE "head" leaves maps modulated, which only SFMSemSegHead'
    " (MODEL.SEM_SEG_HEAD.NAME) and SFMPixelDecoder (MODEL.MASK2FORMER.PIXEL_DECODER) undo: take"
    ' one of them, or set it to "exit"'
)


class ModulatedBackbone(Backbone):
    """A backbone whose maps are resampled where their detail is, before each step makes them small.

    :func:`modulate_backbone` makes it: an object of a class that extends this one and that of the
    backbone. So it *is* that backbone: its keys and the names of its parameters are the same, and
    published weights load; what is new has the prefix ``sfm.<feature>.``. Untrained, its maps are
    those of the bare backbone.

    Gradient checkpointing, autocast and any image size work as the backbone has them. Nothing is
    kept between calls. ``torch.compile`` takes it whole where it takes the backbone.
    """

    demodulation: Demodulate
    points: tuple[InsertionPoint, ...]
    upsample: NonUniformUpsample

    def __reduce__(self) -> tuple[Any, ...]:
        """Name the backbone's own class to ``pickle``, since that of the object is in no module."""
        state = self.__getstate__()
        return _blank, (type(self).__bases__[1],), state

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return maps with the names and the sizes of the bare backbone's.

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
            features: dict[str, Tensor] = super().forward(images)
        mappings = stack_mappings(self.points, records, feature_strides(self), features)
        logits = {name: r.logits for name, r in records.items() if r.logits is not None}
        report(Modulations(mappings, logits))
        return features, mappings, logits

    def extra_repr(self) -> str:
        """Show the backbone and where it is resampled."""
        listed = ", ".join(f"{p.feature} before {p.path}" for p in self.points if p.is_modulated)
        return f"{type(self).__bases__[1].__name__}, {listed or 'no points'}, {self.demodulation}"

    def _resample(self, point: InsertionPoint, _: nn.Module, args: tuple[Any, ...]) -> Any:
        """Resample the input of a step to a smaller map."""
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
        return isinstance(self, TimmBackbone)

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


def modulate_backbone(
    backbone: Backbone,
    *,
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
) -> ModulatedBackbone:
    """Turn a backbone, in place, into one with Spatial Frequency Modulation, and return it.

    Args:
        backbone: Any backbone without a pyramid.
        points: See :func:`~freqfusion.modeling.sfm.insertion.find_points`; {} modulates nothing.
        phases: Phases of some features' modules, where the layers do not tell.
        demodulate: What ``forward`` returns. ``"exit"``: every map brought back to the pixels that
            the bare backbone makes, for any head. ``"head"``: maps as they are, in spaces of their
            own, with the stages beside them; only for heads that undo these. ``"none"``: maps as
            they are, as if nothing had moved, to measure what the way back is worth.
        fwhm: Of the Gaussian that draws samples, in pixels of each map.
        radius: Of its window, in pixels of each map.
        strength: In [0, 1]: how far samples move.
        detach_grid: Let only the supervision of the attention teach it.
        frozen: Nothing teaches the attention: several processes must not wait for its gradients.
        ratio: The attention's pyramid has 1 / ratio of the map's channels.
        highpass: Give the attention a learnable high-pass filter.
        logit_bound: Of the attention; above 2 the samples' order is not guaranteed.
        solver: How mappings are inverted.
        solver_iters: Newton steps at most.
        grad: ``"values"``: at the exit, gradients reach the maps only; ``"implicit"``: the
            positions too.

    Raises:
        ValueError: if the arguments do not fit together, or the backbone has no such points; it is
            not changed then.
    """
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
    modulated: Any = backbone
    modulated.__class__ = _modulated_class(modulated.__class__)
    modulated.demodulation, modulated.points, modulated.upsample = demodulate, found, upsample
    if heads:
        modulated.add_module(_PREFIX, nn.ModuleDict(heads).requires_grad_(not frozen))
    for point in found:
        module = modulated.get_submodule(point.path)
        module.register_forward_pre_hook(partial(modulated._resample, point))
    result: ModulatedBackbone = modulated
    return result


@cache
def _modulated_class(backbone_class: type[Backbone]) -> type[ModulatedBackbone]:
    return type(f"Modulated{backbone_class.__name__}", (ModulatedBackbone, backbone_class), {})


def _blank(backbone_class: Any) -> ModulatedBackbone:
    """Return an object of the modulated class to be filled with what was copied or pickled."""
    return object.__new__(_modulated_class(backbone_class))


@BACKBONE_REGISTRY.register()
def build_sfm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Return the backbone that ``MODEL.SFM.BACKBONE`` names, modulated as ``MODEL.SFM`` says.

    With ``MODEL.SFM.ENABLED`` off it is the bare backbone. With neither a displacement nor a weight
    of the edge loss it has no attention, hence no new parameters.
    """
    node = cfg.MODEL.SFM
    if not node.ENABLED:
        logger.info("MODEL.SFM.ENABLED is off: using %s", node.BACKBONE)
        return _build_bare(cfg, input_shape)
    points, phases = parse_points(node.POINTS)
    is_idle = node.STRENGTH == 0 and node.EDGE_LOSS_WEIGHT == 0
    supervised = is_supervised(cfg) and node.EDGE_LOSS_WEIGHT > 0
    backbone = modulate_backbone(
        _build_bare(cfg, input_shape),
        points={} if is_idle else points,
        phases={} if is_idle else phases,
        demodulate=node.DEMODULATE,
        fwhm=node.FWHM,
        radius=node.RADIUS,
        strength=node.STRENGTH,
        detach_grid=node.DETACH_GRID,
        frozen=not supervised and (node.DETACH_GRID or node.STRENGTH == 0),
        ratio=node.PSP_RATIO,
        highpass=node.HIGHPASS,
        logit_bound=node.LOGIT_BOUND,
        solver=node.SOLVER,
        solver_iters=node.SOLVER_ITERS,
        grad=node.GRAD,
    )
    logger.info("Spatial frequency modulation: %s", backbone.extra_repr())
    return backbone


@BACKBONE_REGISTRY.register()
def build_sfm_freqfusion_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Return a modulated backbone under a pyramid p2..p6, by FreqFusion or Detectron2's own.

    Raises:
        ValueError: if maps leave the backbone in spaces of their own: a pyramid adds them up.
    """
    node = cfg.MODEL.SFM
    if node.ENABLED and node.DEMODULATE == "head":
        raise ValueError(
            "a pyramid adds maps of several stages, which must lie in one space: set "
            f'MODEL.SFM.DEMODULATE to "exit", got {node.DEMODULATE!r}'
        )
    return build_p2_to_p6(cfg, build_sfm_backbone(cfg, input_shape))


def _build_bare(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Return the backbone that ``MODEL.SFM.BACKBONE`` names."""
    name = cfg.MODEL.SFM.BACKBONE
    if modulates(name):
        raise ValueError(
            f"MODEL.SFM.BACKBONE names the backbone that is modulated, so not {name}: write for "
            "instance build_resnet_backbone"
        )
    if name not in BACKBONE_REGISTRY:
        known = ", ".join(sorted(known for known, _ in BACKBONE_REGISTRY))
        raise ValueError(f"MODEL.SFM.BACKBONE must be one of {known}; got {name}")
    backbone: Backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape)
    if isinstance(backbone, FPN):
        raise ValueError(
            f"MODEL.SFM.BACKBONE must be a backbone without a pyramid, got {name}; for a pyramid "
            "on top set MODEL.BACKBONE.NAME to build_sfm_freqfusion_fpn_backbone"
        )
    return backbone


def parse_points(text: str) -> tuple[Points, dict[str, float]]:
    """Read ``MODEL.SFM.POINTS``: ``"auto"`` or ``"res2=res3.0, res3=res4.0@0.5"``.

    Returns:
        The module for each feature, and the phases that stand behind an ``@``.

    Raises:
        ValueError: if the text is neither.
    """
    if text.strip() == "auto":
        return "auto", {}
    points: dict[str, str] = {}
    phases: dict[str, float] = {}
    for part in text.split(","):
        feature, equals, target = (piece.strip() for piece in part.partition("="))
        path, at, phase = (piece.strip() for piece in target.partition("@"))
        try:
            if at:
                phases[feature] = float(phase)
        except ValueError:
            path = ""
        if not (feature and equals and path) or feature in points:
            raise ValueError(
                'MODEL.SFM.POINTS must be "auto" or name each feature once with a module, such as '
                f'"res2=res3.0, res3=res4.0@0.5" (@: the phase of its strides); got {text!r}'
            )
        points[feature] = path
    return points, phases
