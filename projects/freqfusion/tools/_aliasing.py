"""Where a model makes its maps smaller, what comes to these steps, and what attention is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from freqfusion.analysis import Modulation, attention_figure, lattice_figure
from freqfusion.drawing import Picture
from freqfusion.layers.sfm import Mapping, MappingStack


@dataclass(frozen=True)
class DownsamplingStep:
    """A module of the backbone that makes a map smaller; ``becomes`` names what it is made to."""

    point: Any  # InsertionPoint
    module: nn.Module
    becomes: str

    @property
    def title(self) -> str:
        """Return a title such as ``res2 → res3``."""
        return f"{self.point.feature} → {self.becomes}"


@dataclass(frozen=True)
class DownsamplingSteps:
    """The steps of a backbone, fine to coarse; ``modulated`` is the wrapper, if there is one."""

    steps: tuple[DownsamplingStep, ...]
    modulated: Any | None


@dataclass
class RecordedPass:
    """What one run of the model did.

    Attributes:
        size: Height and width of the image as the model takes it.
        covered: Those of the padded image, which the maps cover.
        maps: What came to each step, by feature, before any resampling there.
        stacks: The stages before each feature.
        own: The stage of each feature that was resampled, and how.
    """

    size: tuple[int, int] = (0, 0)
    covered: tuple[int, int] = (0, 0)
    maps: dict[str, Tensor] = field(default_factory=dict)
    stacks: dict[str, MappingStack] = field(default_factory=dict)
    own: dict[str, tuple[Mapping, Modulation]] = field(default_factory=dict)


def find_downsampling(model: nn.Module, points: str = "auto") -> DownsamplingSteps:
    """Return the steps of a model with or without modulation.

    Args:
        model: One of Detectron2's kind, with a ``backbone``.
        points: As ``MODEL.SFM.POINTS``, for a model without modulation.

    Raises:
        ValueError: if its backbone has no such places, or they are not recognized.
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
    return DownsamplingSteps(tuple(_step(backbone, point, strides) for point in found), modulated)


def _step(backbone: Any, point: Any, strides: dict[str, int]) -> DownsamplingStep:
    after = point.stride * point.geometry.stride
    becomes = next((name for name, stride in strides.items() if stride == after), f"1/{after}")
    return DownsamplingStep(point, backbone.get_submodule(point.path), becomes)


@contextmanager
def record_downsampling(model: nn.Module, places: DownsamplingSteps) -> Iterator[RecordedPass]:
    """Record one run of the model; what it did is complete when the context ends.

    Nothing stays on the model.
    """
    from freqfusion.modeling.sfm.recording import record_modulations

    seen = RecordedPass()

    def see_image(module: nn.Module, args: tuple[Any, ...]) -> None:
        planes = args[0][0]["image"]
        seen.size = (planes.shape[-2], planes.shape[-1])

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(see_image).remove)
        for step in places.steps:
            # Before the hook that resamples.
            hook = partial(_keep, seen, step)
            handle = step.module.register_forward_pre_hook(hook, prepend=True)
            stack.callback(handle.remove)
        passes = stack.enter_context(record_modulations())
        yield seen
    missing = [step.point.path for step in places.steps if step.point.feature not in seen.maps]
    if missing:
        raise ValueError(f"{', '.join(missing)} never ran, so nothing could be measured there")
    first = places.steps[0].point
    rows, columns = seen.maps[first.feature].shape[-2:]
    seen.covered = rows * first.stride, columns * first.stride
    if places.modulated is not None and passes:
        _add_modulations(seen, places, passes[-1])


def _keep(
    seen: RecordedPass, step: DownsamplingStep, module: nn.Module, args: tuple[Any, ...]
) -> None:
    from freqfusion.modeling.sfm.geometry import to_channels_first

    point = step.point
    maps, _ = to_channels_first(
        args,
        channels=point.channels,
        channels_last=point.channels_last,
        where=f"the module {point.path}",
    )
    seen.maps[point.feature] = maps.detach()


def _add_modulations(seen: RecordedPass, places: DownsamplingSteps, modulations: Any) -> None:
    # The longest stack has all steps, in the order of the points.
    mappings = max(modulations.mappings.values(), key=len)
    heads: Any = getattr(places.modulated, "sfm", {})
    for step, mapping in zip(places.steps, mappings, strict=True):
        name = step.point.feature
        seen.stacks[name] = modulations.mappings[name]
        if name in modulations.logits:
            logits, head = modulations.logits[name], heads[name]
            how = Modulation(mapping.displacement, logits, head.fwhm, head.radius, head.strength)
            seen.own[name] = mapping, how


def modulation_figure(kind: str, picture: Picture, seen: RecordedPass) -> Any:
    """Draw the ``attention`` or the sampling ``lattice`` of each step over the image."""
    from PIL import Image

    size = (seen.size[1], seen.size[0])
    image = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    if kind == "lattice":
        lattices = [(name, seen.stacks[name], own[0]) for name, own in seen.own.items()]
        return lattice_figure(image, lattices, covered=seen.covered)
    attention = [(name, seen.stacks[name], own[1].logits) for name, own in seen.own.items()]
    return attention_figure(image, attention, covered=seen.covered)
