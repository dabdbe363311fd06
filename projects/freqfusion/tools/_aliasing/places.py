"""Where a model makes its maps smaller, and what reaches these places in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from freqfusion.analysis.aliasing import Modulation
from freqfusion.layers.sfm import Mapping, MappingStack, equivalent_sampling_rate


@dataclass(frozen=True)
class Place:
    """A module of the backbone that makes a map smaller; ``becomes`` names what it is made to."""

    point: Any  # InsertionPoint
    module: nn.Module
    becomes: str
    kernel: int
    out_channels: int

    @property
    def title(self) -> str:
        """Such as ``res2 → res3``."""
        return f"{self.point.feature} → {self.becomes}"

    def highest_kept(self, *, equivalent: bool) -> float:
        """The Nyquist frequency, by the stride or by the equivalent sampling rate."""
        stride = self.point.geometry.stride
        if not equivalent:
            return float(1 / (2 * stride))
        channels = self.point.channels, self.out_channels
        return equivalent_sampling_rate(self.kernel, stride, *channels) / 2


@dataclass(frozen=True)
class Places:
    """The steps of a backbone, fine to coarse; ``modulated`` is the wrapper, if there is one."""

    steps: tuple[Place, ...]
    modulated: Any | None


@dataclass
class Pass:
    """What one run of the model did.

    Attributes:
        maps: What came to each place, by feature, before any resampling there.
        stacks: The stages before each feature.
        own: The stage of each feature that was resampled, and how.
    """

    maps: dict[str, Tensor] = field(default_factory=dict)
    stacks: dict[str, MappingStack] = field(default_factory=dict)
    own: dict[str, tuple[Mapping, Modulation]] = field(default_factory=dict)


def find_places(model: nn.Module, points: str = "auto") -> Places:
    """The places of a model with or without modulation.

    Args:
        model: One of Detectron2's kind, with a ``backbone``.
        points: As ``MODEL.SFM.POINTS``, for a model without modulation.

    Raises:
        ValueError: if its backbone has no such places, or they are not recognised.
    """
    from detectron2.modeling import FPN, Backbone

    from freqfusion.modeling.sfm.backbone import ModulatedBackbone, parse_points
    from freqfusion.modeling.sfm.insertion import feature_strides, find_points

    modulated = next(
        (part for part in model.modules() if isinstance(part, ModulatedBackbone)), None
    )
    backbone: Any = modulated or getattr(model, "backbone", None)
    if isinstance(backbone, FPN):
        backbone = backbone.bottom_up
    if not isinstance(backbone, Backbone):
        raise ValueError(
            f"{type(model).__name__} has no backbone of Detectron2's kind, so there is nothing"
            " whose downsampling could be measured"
        )
    found = modulated.points if modulated else ()
    if not any(point.is_modulated for point in found):
        modulated = None
        found = find_points(backbone, *parse_points(points))
    strides = feature_strides(backbone)
    return Places(tuple(_place(backbone, point, strides) for point in found), modulated)


def _place(backbone: Any, point: Any, strides: dict[str, int]) -> Place:
    from freqfusion.modeling.sfm.geometry import kernel_of, strided_layers

    module = backbone.get_submodule(point.path)
    after = point.stride * point.geometry.stride
    becomes = next((name for name, stride in strides.items() if stride == after), f"1/{after}")
    channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
    channels = dict(getattr(backbone, "_out_feature_channels", {})) | channels
    kernel = max((kernel_of(layer) for _, layer in strided_layers(module)), default=1)
    return Place(point, module, becomes, kernel, channels.get(becomes, point.channels))


@contextmanager
def recorded(places: Places) -> Iterator[Pass]:
    """Record one run of the model; what it did is complete when the context ends.

    Nothing stays on the model.
    """
    from freqfusion.modeling.sfm.recording import record_modulations

    seen = Pass()
    with ExitStack() as stack:
        for place in places.steps:
            # Before the hook that resamples.
            hook = partial(_keep, seen, place)
            handle = place.module.register_forward_pre_hook(hook, prepend=True)
            stack.callback(handle.remove)
        passes = stack.enter_context(record_modulations())
        yield seen
    missing = [place.point.path for place in places.steps if place.point.feature not in seen.maps]
    if missing:
        raise ValueError(f"{', '.join(missing)} never ran, so nothing could be measured there")
    if places.modulated is not None and passes:
        _add_modulations(seen, places, passes[-1])


def _keep(seen: Pass, place: Place, module: nn.Module, args: tuple[Any, ...]) -> None:
    from freqfusion.modeling.sfm.geometry import to_channels_first

    point = place.point
    maps, _ = to_channels_first(
        args,
        channels=point.channels,
        channels_last=point.channels_last,
        where=f"the module {point.path}",
    )
    seen.maps[point.feature] = maps.detach()


def _add_modulations(seen: Pass, places: Places, modulations: Any) -> None:
    # The longest stack has all steps, in the order of the points.
    steps = max(modulations.mappings.values(), key=len)
    heads: Any = getattr(places.modulated, "sfm", {})
    for place, mapping in zip(places.steps, steps, strict=True):
        name = place.point.feature
        seen.stacks[name] = modulations.mappings[name]
        if name in modulations.logits:
            head = heads[name]
            seen.own[name] = (
                mapping,
                Modulation(
                    mapping.displacement,
                    modulations.logits[name],
                    head.fwhm,
                    head.radius,
                    head.strength,
                ),
            )
