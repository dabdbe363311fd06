"""Where a model makes its maps smaller, and how much each of these steps aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from freqfusion.analysis.aliasing import (
    MeasureOptions,
    Modulation,
    Version,
    attention_edge_correlation,
    measure_stage,
)
from freqfusion.analysis.running import RunningMean
from freqfusion.drawing import Picture
from freqfusion.layers.sfm import Mapping, MappingStack, equivalent_sampling_rate, warp_edge_target
from freqfusion.predictor import Predictor
from freqfusion.tools._images import ImageSource, read_image

# Scalars of a stage.
QUANTITIES = (
    "plain",
    "modulated",
    "control",
    "modulated_over_plain",
    "modulated_over_control",
    "attention_edge_correlation",
)
_MOST_BINS = 64
_STILL = 1e-4


@dataclass(frozen=True)
class DownsamplingStep:
    """A module of the backbone that makes a map smaller; ``becomes`` names what it is made to."""

    point: Any  # InsertionPoint
    module: nn.Module
    becomes: str
    kernel: int
    out_channels: int

    @property
    def title(self) -> str:
        """Return a title such as ``res2 → res3``."""
        return f"{self.point.feature} → {self.becomes}"

    def highest_kept(self, *, equivalent: bool) -> float:
        """Return the Nyquist frequency, by the stride or by the equivalent sampling rate."""
        stride = self.point.geometry.stride
        if not equivalent:
            return float(1 / (2 * stride))
        channels = self.point.channels, self.out_channels
        return equivalent_sampling_rate(self.kernel, stride, *channels) / 2


@dataclass(frozen=True)
class DownsamplingSteps:
    """The steps of a backbone, fine to coarse; ``modulated`` is the wrapper, if there is one."""

    steps: tuple[DownsamplingStep, ...]
    modulated: Any | None


@dataclass
class RecordedPass:
    """What one run of the model did.

    Attributes:
        maps: What came to each place, by feature, before any resampling there.
        stacks: The stages before each feature.
        own: The stage of each feature that was resampled, and how.
    """

    maps: dict[str, Tensor] = field(default_factory=dict)
    stacks: dict[str, MappingStack] = field(default_factory=dict)
    own: dict[str, tuple[Mapping, Modulation]] = field(default_factory=dict)


def find_downsampling(model: nn.Module, points: str = "auto") -> DownsamplingSteps:
    """Return the places of a model with or without modulation.

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
    return DownsamplingSteps(tuple(_place(backbone, point, strides) for point in found), modulated)


def _place(backbone: Any, point: Any, strides: dict[str, int]) -> DownsamplingStep:
    from freqfusion.modeling.sfm.geometry import kernel_of, strided_layers

    module = backbone.get_submodule(point.path)
    after = point.stride * point.geometry.stride
    becomes = next((name for name, stride in strides.items() if stride == after), f"1/{after}")
    channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
    channels = dict(getattr(backbone, "_out_feature_channels", {})) | channels
    kernel = max((kernel_of(layer) for _, layer in strided_layers(module)), default=1)
    return DownsamplingStep(point, module, becomes, kernel, channels.get(becomes, point.channels))


@contextmanager
def recorded(places: DownsamplingSteps) -> Iterator[RecordedPass]:
    """Record one run of the model; what it did is complete when the context ends.

    Nothing stays on the model.
    """
    from freqfusion.modeling.sfm.recording import record_modulations

    seen = RecordedPass()
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


def _keep(
    seen: RecordedPass, place: DownsamplingStep, module: nn.Module, args: tuple[Any, ...]
) -> None:
    from freqfusion.modeling.sfm.geometry import to_channels_first

    point = place.point
    maps, _ = to_channels_first(
        args,
        channels=point.channels,
        channels_last=point.channels_last,
        where=f"the module {point.path}",
    )
    seen.maps[point.feature] = maps.detach()


def _add_modulations(seen: RecordedPass, places: DownsamplingSteps, modulations: Any) -> None:
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


@dataclass(frozen=True)
class Item:
    """One image: what the model takes, the same with its targets (if known), and how to see it."""

    inputs: dict[str, Any]
    gt: dict[str, Any] | None
    picture: Callable[[], Picture]

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width as the model takes it."""
        planes: Tensor = self.inputs["image"]
        return planes.shape[-2], planes.shape[-1]


class Reader:
    """Reads one image at a time, resized as for testing; targets are those of the training.

    Args:
        cfg: ``INPUT`` says how images are read and which targets the attention learns from.
        predictor: Of the model.
        with_truth: Whether targets are wanted.
    """

    def __init__(self, cfg: Any, predictor: Predictor, *, with_truth: bool) -> None:
        self.predictor = predictor
        self.mapper = _mapper(cfg) if with_truth else None

    def __call__(self, source: ImageSource) -> Item:
        """Read an image.

        Raises:
            ValueError: if it or its ground truth cannot be read.
        """
        picture = read_image(source.path)
        inputs = self.predictor.inputs(picture)
        gt = None
        if self.mapper is not None and source.gt is not None:
            try:
                gt = self.mapper(dict(source.gt))
            except (OSError, KeyError) as error:
                raise ValueError(
                    f"{source.path}: its ground truth cannot be read: {error}"
                ) from error
            if gt["image"].shape != inputs["image"].shape:
                raise ValueError(f"{source.path} has another size than its data set says")
        height, width = inputs["image"].shape[-2:]
        return Item(inputs, gt, lambda: resized(picture, height, width))


def edges_of(item: Item, size: tuple[int, int], ignore_value: int) -> tuple[Tensor, Tensor] | None:
    """Return label edges and ignored pixels, (1, 1, height, width) each; None without labels.

    Edges are those that supervise the attention. ``size`` is that of the padded image.
    """
    import torch

    from freqfusion.modeling.sfm.segmentor import ignored_pixels, label_edges, label_maps

    if item.gt is None or not any(True for _ in label_maps(item.gt, ignore_value)):
        return None
    device = torch.device("cpu")
    edges = label_edges([item.gt], size, device, ignore_value=ignore_value)
    return edges, ignored_pixels([item.gt], size, device, ignore_value=ignore_value)


def _mapper(cfg: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    from freqfusion.data.mapper import SegmentationMapper, build_augmentations

    # Boxes have no edges of things.
    targets = [name for name in cfg.INPUT.TARGETS if name != "instances" or cfg.MODEL.MASK_ON]
    mapper: Callable[[dict[str, Any]], dict[str, Any]] = SegmentationMapper(
        True,
        augmentations=build_augmentations(cfg, is_train=False),
        image_format=cfg.INPUT.FORMAT,
        targets=targets,
        use_masks=cfg.MODEL.MASK_ON,
        mask_format=cfg.INPUT.MASK_FORMAT,
    )
    return mapper


def resized(picture: Picture, height: int, width: int) -> Picture:
    """Return a picture as large as the model sees it."""
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


@dataclass
class StageResult:
    """What has been measured at one place so far.

    Attributes:
        place: Where.
        f_nyquist: What counts as above.
        values: Means over the images, by ``QUANTITIES``; nan for what there is not.
        spectra: Means of the spectra over ``frequencies``, by version.
        sizes: Height and width of the maps.
        furthest: Greatest displacement of a sample, in pixels of the map.
    """

    place: DownsamplingStep
    f_nyquist: float
    values: dict[str, RunningMean] = field(
        default_factory=lambda: {name: RunningMean() for name in QUANTITIES}
    )
    spectra: dict[Version, RunningMean] = field(default_factory=dict)
    frequencies: Tensor = field(default_factory=lambda: torch.zeros(0))
    sizes: set[tuple[int, int]] = field(default_factory=set)
    furthest: float = 0.0


class AliasingMeter:
    """Runs a model on one image at a time and measures each of its downsampling steps.

    Args:
        model: In evaluation mode.
        places: Its steps.
        options: How maps are resampled and measured.
        ignore_value: Of semantic labels.
        equivalent: Count frequencies above half of the equivalent sampling rate, instead of above
            half of the sampling rate behind the stride.
    """

    def __init__(
        self,
        model: Callable[[list[dict[str, Any]]], Any] | nn.Module,
        places: DownsamplingSteps,
        *,
        options: MeasureOptions,
        ignore_value: int = 255,
        equivalent: bool = False,
    ) -> None:
        self.model, self.places, self.options = model, places, options
        self.ignore_value = ignore_value
        self.images = 0
        self.stages = {
            place.point.feature: StageResult(place, place.highest_kept(equivalent=equivalent))
            for place in places.steps
        }

    @property
    def is_still(self) -> bool:
        """Return whether the model has attention that has moved no sample of any image."""
        moved = [stage.furthest for stage in self.stages.values()]
        return self.places.modulated is not None and max(moved) < _STILL

    @torch.no_grad()
    def __call__(self, item: Item) -> tuple[RecordedPass, tuple[int, int]]:
        """Run and measure one image; what the model did, and the size that its maps cover."""
        with recorded(self.places) as seen:
            self.model([item.inputs])
        point = self.places.steps[0].point
        rows, columns = seen.maps[point.feature].shape[-2:]
        covered = rows * point.stride, columns * point.stride
        gt = edges_of(item, covered, self.ignore_value) if seen.own else None
        for name, stage in self.stages.items():
            self._measure(name, stage, seen, item.size)
            if gt is not None and name in seen.own:
                self._correlate(name, stage, seen, gt)
        self.images += 1
        return seen, covered

    def _measure(
        self, name: str, stage: StageResult, seen: RecordedPass, image: tuple[int, int]
    ) -> None:
        maps, stride = seen.maps[name], stage.place.point.stride
        valid = (-(-image[0] // stride), -(-image[1] // stride))
        valid = min(valid[0], maps.shape[-2]), min(valid[1], maps.shape[-1])
        own = seen.own.get(name)
        bins = len(stage.frequencies) or _bins(valid, stage.place.point.geometry.stride)
        found = measure_stage(
            maps,
            own[1] if own else None,
            f_nyquist=stage.f_nyquist,
            bins=bins,
            valid=valid,
            options=self.options,
        )
        stage.frequencies = found.frequencies.cpu()
        stage.sizes.add(valid)
        ratios = {version: ratio.item() for version, ratio in found.ratios.items()}
        for version, power in found.spectra.items():
            stage.spectra.setdefault(version, RunningMean()).update(power[0])
            stage.values[version].update(ratios[version])
        for other in ("plain", "control"):
            if "modulated" in ratios and ratios[other] > 0:
                stage.values[f"modulated_over_{other}"].update(ratios["modulated"] / ratios[other])
        if own:
            stage.furthest = max(stage.furthest, own[0].displacement.abs().max().item())

    def _correlate(
        self, name: str, stage: StageResult, seen: RecordedPass, gt: tuple[Tensor, Tensor]
    ) -> None:
        logits = seen.own[name][1].logits
        size, before = (logits.shape[-2], logits.shape[-1]), seen.stacks[name]
        edges, ignored = (warp_edge_target(one.to(logits.device), size, before) for one in gt)
        found = attention_edge_correlation(logits, edges, ignored < 0.5)
        stage.values["attention_edge_correlation"].update(found.item())


def _bins(size: tuple[int, int], stride: int) -> int:
    """As many rings as a map fills, with the border of two of them on the Nyquist frequency."""
    most = min(max(min(size) // 2, 1), _MOST_BINS)
    return max(most // stride * stride, stride)
