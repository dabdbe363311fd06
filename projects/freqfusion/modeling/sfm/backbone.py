"""Spatial Frequency Modulation around any Detectron2 backbone.

Chen, Fu, Gu, Zheng, Dai: Spatial Frequency Modulation for Semantic Segmentation, TPAMI 2025. Where
the resampling goes follows its figure; the wrapper is our design.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from freqfusion.layers.checks import check_choice
from freqfusion.layers.sfm import (
    AdaptiveResampling,
    MappingStack,
    NonUniformUpsample,
    SemanticHighFreqAttention,
)
from freqfusion.layers.sfm.inversion import INTERPOLATION_OF, InverseGradient, InverseSolver
from freqfusion.layers.sfm.mapping import Mapping as StageMapping
from freqfusion.modeling.sfm.demodulation import demodulate_in_place_of, unmoved
from freqfusion.modeling.sfm.features import ModulatedMaps
from freqfusion.modeling.sfm.insertion import (
    InsertionPoint,
    Points,
    feature_strides,
    find_points,
)
from freqfusion.modeling.sfm.maps import to_channels_first
from freqfusion.modeling.sfm.settings import build_wrapped, parse_points
from freqfusion.modeling.timm_backbone import TimmBackbone

Demodulate = Literal["exit", "head"]


class Modulations(NamedTuple):
    """What one pass has done: the stages under each feature, and the attention's logits.

    ``logits[name]`` (B, 1, H, W) belong to the map ``name``, so they lie in the space that
    ``mappings[name]`` leads to.
    """

    mappings: dict[str, MappingStack]
    logits: dict[str, Tensor]


class _Record(NamedTuple):
    mapping: StageMapping
    logits: Tensor | None


# Per thread, and set only while a pass runs. Recomputed passes (activation checkpointing) find
# nothing here: they resample in the same way and record nothing.
_RECORDS: ContextVar[dict[str, _Record] | None] = ContextVar("records", default=None)
_LISTENER: ContextVar[list[Modulations] | None] = ContextVar("listener", default=None)

# What a torch module keeps its tree, its parameters and the hooks of its state dict in.
_REGISTRIES = (
    "_parameters",
    "_buffers",
    "_non_persistent_buffers_set",
    "_modules",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_PREFIX = "sfm"


class ModulatedBackbone(Backbone):
    """A backbone whose maps are resampled where their detail is, before each step makes them small.

    The wrapped backbone is not changed but for hooks, and its parts are the parts of this module:
    parameters, buffers and state-dict keys have the names that they have without wrapping, so that
    published weights load, and what is new has the prefix ``sfm.<feature>``. It is built to be the
    identity: untrained, the maps are those of the bare backbone.

    Gradient checkpointing, autocast and any image size work as the wrapped backbone has them.
    Nothing is kept between calls. ``torch.compile`` works with breaks of the graph at the hooks.

    Args:
        backbone: Any backbone without a pyramid; it belongs to this module afterwards.
        points: See :func:`~freqfusion.modeling.sfm.insertion.find_points`; an empty mapping wraps
            without modulating.
        phases: Phases of some features' modules, where the layers do not tell.
        demodulate: What :meth:`forward` returns. ``"exit"``: every map brought back to the pixels
            that the bare backbone makes, for any head. ``"head"``: maps as they are, in spaces of
            their own, with the stages beside them; only for heads that undo these.
        fwhm: Of the Gaussian that draws samples, in pixels of each map.
        radius: Of its window, in pixels of each map.
        strength: In [0, 1]: how far samples move.
        detach_grid: Let only the supervision of the attention teach it.
        ratio: The attention's pyramid has 1 / ratio of the map's channels.
        highpass: Give the attention a learnable high-pass filter.
        logit_bound: Of the attention; above 2 the samples' order is not guaranteed.
        solver: How mappings are inverted.
        solver_iters: Newton steps at most.
        grad: ``"values"``: at the exit, gradients reach the maps only; ``"implicit"``: the
            positions too.

    Raises:
        ValueError: if the arguments do not fit together, or the backbone has no such points.
    """

    wrapped: Backbone
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
        ratio: int = 16,
        highpass: bool = True,
        logit_bound: float = 2.0,
        solver: InverseSolver = "newton",
        solver_iters: int = 20,
        grad: InverseGradient = "values",
    ):
        super().__init__()
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
        self.demodulation: Demodulate = demodulate
        self.points = found
        self._adopt(backbone)
        # Without parameters, and not in the tree: its keys would not be the wrapped backbone's.
        self.__dict__["upsample"] = upsample
        if heads:
            self.add_module(_PREFIX, nn.ModuleDict(heads))
        for point in found:
            module = backbone.get_submodule(point.path)
            module.register_forward_pre_hook(partial(self._resample, point))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Arguments from ``MODEL.SFM``."""
        node = cfg.MODEL.SFM
        points, phases = parse_points(node.POINTS)
        # Without displacement nor supervision the attention would never get a gradient, which
        # training on several processes takes for an error.
        is_idle = node.STRENGTH == 0 and node.EDGE_LOSS_WEIGHT == 0
        return {
            "backbone": build_wrapped(cfg, input_shape),
            "points": {} if is_idle else points,
            "phases": {} if is_idle else phases,
            "demodulate": node.DEMODULATE,
            "fwhm": node.FWHM,
            "radius": node.RADIUS,
            "strength": node.STRENGTH,
            "detach_grid": node.DETACH_GRID,
            "ratio": node.PSP_RATIO,
            "highpass": node.HIGHPASS,
            "logit_bound": node.LOGIT_BOUND,
            "solver": node.SOLVER,
            "solver_iters": node.SOLVER_ITERS,
            "grad": node.GRAD,
        }

    def _adopt(self, backbone: Backbone) -> None:
        """Make the tree of the wrapped backbone the tree of this module.

        Both share one set of dictionaries, so that whatever changes parts or parameters later
        (moving to a device, converting normalisations) changes both. The backbone itself is no
        part of the tree.
        """
        for name in _REGISTRIES:
            self.__dict__[name] = backbone.__dict__[name]
        self.__dict__["wrapped"] = backbone
        self._version = backbone._version
        self.training = backbone.training

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) to maps with the names and the sizes of the wrapped backbone's.

        With ``demodulate`` "head" they are ``ModulatedMaps``, a dict that has their stages with it;
        those of a ``TimmBackbone`` are not cropped to the image then.
        """
        features, mappings, _ = self.forward_with_mappings(images)
        if self.demodulation == "head":
            return ModulatedMaps(features, mappings)
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
        records: dict[str, _Record] = {}
        token = _RECORDS.set(records)
        try:
            features: dict[str, Tensor] = self.wrapped(images)
        finally:
            _RECORDS.reset(token)
        mappings = self._stack(features, records)
        logits = {name: r.logits for name, r in records.items() if r.logits is not None}
        listener = _LISTENER.get()
        if listener is not None:
            listener.append(Modulations(mappings, logits))
        return features, mappings, logits

    def output_shape(self) -> dict[str, ShapeSpec]:
        """The wrapped backbone's."""
        shapes: dict[str, ShapeSpec] = self.wrapped.output_shape()
        return shapes

    @property
    def size_divisibility(self) -> int:
        """The wrapped backbone's."""
        return int(self.wrapped.size_divisibility)

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The wrapped backbone's."""
        return dict(self.wrapped.padding_constraints)

    def train(self, mode: bool = True) -> "ModulatedBackbone":
        """Set the mode of this module, of the wrapped one and of their parts."""
        self.wrapped.train(mode)
        self.training = mode
        return self

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
        step, records = point.geometry, _RECORDS.get()
        out_size = step.out_size((maps.shape[-2], maps.shape[-1]))
        if not point.is_modulated:
            if records is not None:
                mapping = unmoved(maps, step.stride, step.phase, out_size)
                records[point.feature] = _Record(mapping, None)
            return None
        heads: Any = self.sfm
        resampled, mapping, logits = heads[point.feature](maps, step.stride, step.phase, out_size)
        if records is not None:
            records[point.feature] = _Record(mapping, logits)
        return (restore(resampled), *args[1:])

    def _stack(
        self, features: dict[str, Tensor], records: dict[str, _Record]
    ) -> dict[str, MappingStack]:
        idle = [point.path for point in self.points if point.feature not in records]
        if idle:
            raise RuntimeError(
                f"{', '.join(idle)} of {type(self.wrapped).__name__} never ran, so nothing was "
                "resampled there: name other modules in MODEL.SFM.POINTS"
            )
        strides = feature_strides(self.wrapped)
        names = [*features, *(point.feature for point in self.points)]
        stacks = {
            name: MappingStack(
                records[point.feature].mapping
                for point in self.points
                if point.stride < strides[name]
            )
            for name in names
        }
        for name, maps in features.items():
            size = (maps.shape[-2], maps.shape[-1])
            if stacks[name] and stacks[name][-1].out_size != size:
                raise RuntimeError(
                    f"{name} has {size} pixels where its stages give {stacks[name][-1].out_size}: "
                    f"pad images to a multiple of {max(strides.values())}, or name other modules "
                    "in MODEL.SFM.POINTS"
                )
        return stacks

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

    # The wrapped backbone may read and write state dicts in its own way.
    def _load_from_state_dict(self, *args: Any) -> None:
        self.wrapped._load_from_state_dict(*args)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.wrapped._save_to_state_dict(*args)


@contextmanager
def record_modulations() -> Iterator[list[Modulations]]:
    """Collect what every modulated backbone does in this thread, one entry per pass.

    For the supervision of the attention where the backbone lies deep inside a model, for instance
    under a pyramid.
    """
    seen: list[Modulations] = []
    token = _LISTENER.set(seen)
    try:
        yield seen
    finally:
        _LISTENER.reset(token)
