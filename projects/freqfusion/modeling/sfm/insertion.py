"""Where in a backbone adaptive resampling goes: before the layers that make its maps smaller.

The published figure has three: from 1/4 to 1/8, to 1/16 and to 1/32 (Chen et al., Spatial
Frequency Modulation for Semantic Segmentation, TPAMI 2025). How they are found is our design.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from detectron2.modeling import Backbone
from torch import nn

from freqfusion.modeling.internimage import InternImageDownsampling
from freqfusion.modeling.sfm.geometry import (
    StrideGeometry,
    geometry_of,
    merges_patches,
    stride_of,
    strided_layers,
)

Points = Literal["auto"] | Mapping[str, str]
# Maps finer than this are not modulated.
_FINEST_STRIDE = 4
_SEQUENCES = (nn.Sequential, nn.ModuleList)
# What timm, Swin and InternImage call the step between two stages.
_STEP = "downsample"
_REMEDY = (
    "name the modules yourself: a feature and the module that makes its map smaller, such as "
    "res2=res3.0 (MODEL.SFM.POINTS)"
)


@dataclass(frozen=True)
class InsertionPoint:
    """One point where a map is resampled.

    Attributes:
        feature: Name of the backbone's map that is resampled.
        path: The module whose input is replaced; all branches that see the map are inside.
        channels: Of the map.
        stride: Of the map. Features with a greater one lie in the modulated space.
        geometry: What the module does next.
        channels_last: The layout of the map where its shape leaves both possible.
        is_modulated: False for a step behind modulated ones whose map is left alone: it counts for
            the positions of its pixels only.
    """

    feature: str
    path: str
    channels: int
    stride: int
    geometry: StrideGeometry
    channels_last: bool
    is_modulated: bool = True


def find_points(
    backbone: Backbone, points: Points = "auto", phases: Mapping[str, float] | None = None
) -> tuple[InsertionPoint, ...]:
    """Return the insertion points of a backbone, fine to coarse.

    Args:
        backbone: Whose features have strides, as Detectron2's do.
        points: ``"auto"``: every step from stride 4 on that a returned feature depends on, found in
            the tree of modules. Otherwise the module for each feature that is to be resampled; the
            steps that follow and are not named are found in the tree, since they shrink what has
            been moved.
        phases: The phase of some features' modules, where it does not follow from their layers.

    Raises:
        ValueError: if there are no such points.
    """
    strides = feature_strides(backbone)
    paths = _auto_paths(backbone, strides) if isinstance(points, str) else dict(points)
    if isinstance(points, str) and points != "auto":
        raise ValueError(f'points must be "auto" or a module for each feature, got {points!r}')
    for kind, names in (("points", paths), ("phases", phases or {})):
        known = strides if kind == "points" else paths
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(
                f"{kind} must be given for {', '.join(known) or 'no feature'}; got "
                f"{', '.join(unknown)}"
            )
    found = [_point(backbone, *item, strides, phases or {}) for item in paths.items()]
    found += [
        replace(_point(backbone, *item, strides, {}), is_modulated=False)
        for item in _steps_behind(backbone, paths, strides).items()
    ]
    return tuple(sorted(found, key=lambda point: point.stride))


def _steps_behind(
    backbone: Backbone, paths: dict[str, str], strides: dict[str, int]
) -> dict[str, str]:
    """Steps to smaller maps behind the first one of ``paths`` that are not among them."""
    coarsest = max(shape.stride for shape in backbone.output_shape().values())
    named = {strides[feature] for feature in paths}
    between = {s for s in strides.values() if named and min(named) < s < coarsest} - named
    if not between:
        return {}
    steps = _auto_paths(backbone, strides)
    return {feature: path for feature, path in steps.items() if strides[feature] in between}


def feature_strides(backbone: Backbone) -> dict[str, int]:
    """Return the stride of every stage that a backbone computes, returned or not."""
    known: dict[str, int] = dict(getattr(backbone, "_out_feature_strides", {}))
    return known | {name: shape.stride for name, shape in backbone.output_shape().items()}


def _point(
    backbone: Any, feature: str, path: str, strides: dict[str, int], phases: Mapping[str, float]
) -> InsertionPoint:
    try:
        module = backbone.get_submodule(path)
    except AttributeError as error:
        names = ", ".join(name for name, _ in backbone.named_children())
        raise ValueError(
            f"{type(backbone).__name__} has no module {path!r} to resample {feature} for; its "
            f"parts are {names}"
        ) from error
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        raise ValueError(f"{path} is a list of modules, which is never called itself: {_REMEDY}")
    channels = {name: shape.channels for name, shape in backbone.output_shape().items()}
    channels = dict(getattr(backbone, "_out_feature_channels", {})) | channels
    return InsertionPoint(
        feature=feature,
        path=path,
        channels=channels[feature],
        stride=strides[feature],
        geometry=_geometry(module, f"the module {path}", phases.get(feature)),
        channels_last=merges_patches(module) or isinstance(module, InternImageDownsampling),
    )


def _geometry(module: nn.Module, where: str, phase: float | None) -> StrideGeometry:
    if phase is None:
        return geometry_of(module, where)
    # The first branch gives the size, which all must agree on, and the caller the phase.
    for path, layer in strided_layers(module):
        return replace(geometry_of(layer, f"{where}.{path}"), phase=phase)
    return geometry_of(module, where)


def _auto_paths(backbone: Backbone, strides: dict[str, int]) -> dict[str, str]:
    """The module before which each feature is resampled, found from the coarsest map upwards.

    From that end because stems also pool without a module, which the tree does not show.
    """
    name = type(backbone).__name__
    coarsest = max(shape.stride for shape in backbone.output_shape().values())
    paths: dict[str, str] = {}
    after = max(strides.values())
    for path in reversed([_entry(*stage) for stage in _stages(backbone)]):
        if after <= _FINEST_STRIDE:
            break
        module = backbone.get_submodule(path)
        after //= max(stride_of(layer) for _, layer in strided_layers(module))
        features = [feature for feature, stride in strides.items() if stride == after]
        if not features:
            raise ValueError(
                f"{name} has no map of stride {after}, which {path} would take: {_REMEDY}"
            )
        if after < coarsest:
            paths[features[-1]] = path
    if after > _FINEST_STRIDE:
        raise ValueError(
            f"the layers of {name} that make its maps smaller were not recognised: {_REMEDY}"
        )
    if not paths:
        raise ValueError(
            f"{name} returns no map coarser than stride {_FINEST_STRIDE}: nothing to modulate"
        )
    return paths


def _stages(backbone: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return the parts of a backbone that make maps smaller, one after the other, in order."""
    path, trunk = "", backbone
    parts = _shrinking_children(path, trunk)
    while len(parts) == 1 and parts[0][1] is not trunk:  # a wrapper such as TimmBackbone
        path, trunk = parts[0]
        parts = _shrinking_children(path, trunk)
    for path, part in parts:
        inner = _shrinking_children(path, part)
        in_sequence = isinstance(part, _SEQUENCES) and len(inner) > 1
        yield from inner if in_sequence else [(path, part)]


def _shrinking_children(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    prefix = f"{path}." if path else ""
    return [
        (prefix + name, child)
        for name, child in module.named_children()
        if next(strided_layers(child), None)
    ]


def _entry(path: str, stage: nn.Module) -> str:
    """Return the module in a stage whose input is the map that all its strided layers see.

    A step of its own (``downsample``, with the normalization before its convolution), or the block
    that holds the strided layers of all branches.
    """
    layers = [layer.split(".") for layer, _ in strided_layers(stage)]
    if all(names[0] == _STEP for names in layers):
        return f"{path}.{_STEP}"
    common: list[str] = []
    for names in zip(*layers, strict=False):
        # A single layer is not the block yet that it lies in.
        is_sequence = isinstance(stage.get_submodule(".".join(common)), _SEQUENCES)
        if len(set(names)) > 1 or (len(layers) == 1 and not is_sequence):
            break
        common.append(names[0])
    return ".".join([path, *common])
