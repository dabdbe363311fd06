"""Whether a configuration names models that exist and that fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    build_backbone,
    build_model,
)

from freqfusion.config_check import did_you_mean
from freqfusion.config_check.names import listed
from freqfusion.modeling.fusion import fusion_factory


class Part(NamedTuple):
    """A part of a model: the key of its name, its registry, and the key of the maps it reads."""

    key: str
    registry: Any
    features: str = ""


_BACKBONE = Part("BACKBONE.NAME", BACKBONE_REGISTRY)
_ANCHORS = Part("ANCHOR_GENERATOR.NAME", ANCHOR_GENERATOR_REGISTRY)
_PROPOSALS = Part("PROPOSAL_GENERATOR.NAME", PROPOSAL_GENERATOR_REGISTRY, "RPN.IN_FEATURES")
_RPN_HEAD = Part("RPN.HEAD_NAME", RPN_HEAD_REGISTRY)
_ROI_HEADS = Part("ROI_HEADS.NAME", ROI_HEADS_REGISTRY, "ROI_HEADS.IN_FEATURES")
_BOX_HEAD = Part("ROI_BOX_HEAD.NAME", ROI_BOX_HEAD_REGISTRY)
_MASK_HEAD = Part("ROI_MASK_HEAD.NAME", ROI_MASK_HEAD_REGISTRY)
_SEMANTIC = Part("SEM_SEG_HEAD.NAME", SEM_SEG_HEADS_REGISTRY, "SEM_SEG_HEAD.IN_FEATURES")
# Without a registered name of its own.
_RETINANET = Part("", {}, "RETINANET.IN_FEATURES")

_RPN = (_PROPOSALS, _RPN_HEAD, _ANCHORS)
_RCNN = (*_RPN, _ROI_HEADS, _BOX_HEAD, _MASK_HEAD)
_PARTS: dict[str, tuple[Part, ...]] = {
    "GeneralizedRCNN": _RCNN,
    "PanopticFPN": (*_RCNN, _SEMANTIC),
    "ProposalNetwork": _RPN,
    "RetinaNet": (_ANCHORS, _RETINANET),
    "SemanticSegmentor": (_SEMANTIC,),
}


def check_model(cfg: CfgNode, *, build: bool = True) -> list[str]:
    """What is wrong with the model, a sentence each; later questions wait for earlier answers.

    With ``build`` it is built too, on the device that has shapes but no memory.
    """
    problems = [*_unknown_names(cfg)]
    if not problems:
        problems = [*_useless_switch(cfg), *_unknown_fusion(cfg)]
    if not problems and build:
        problems = [*_build_problems(cfg)]
    return problems


def _parts(cfg: CfgNode) -> list[Part]:
    """The parts that the meta-architecture has, the backbone first."""
    model = cfg.MODEL
    without: list[Part] = []
    if model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        without += _RPN
    if not model.MASK_ON:
        without.append(_MASK_HEAD)
    if model.ROI_HEADS.NAME not in ("StandardROIHeads", "CascadeROIHeads"):
        without.append(_BOX_HEAD)
    used = _PARTS.get(model.META_ARCHITECTURE, ())
    return [_BACKBONE, *(part for part in used if part not in without)]


def _value(cfg: CfgNode, key: str) -> Any:
    section, name = key.split(".")
    return cfg.MODEL[section][name]


def _unknown_names(cfg: CfgNode) -> Iterator[str]:
    name = cfg.MODEL.META_ARCHITECTURE
    if name not in META_ARCH_REGISTRY:
        yield _unregistered("META_ARCHITECTURE", name, META_ARCH_REGISTRY)
    for part in _parts(cfg):
        if part.key and _value(cfg, part.key) not in part.registry:
            yield _unregistered(part.key, _value(cfg, part.key), part.registry)


def _unregistered(key: str, name: str, registry: Any) -> str:
    known = [other for other, _ in registry]
    if not name:
        return f"MODEL.{key} is empty; there are {listed(known)}"
    hint = did_you_mean(name, known) or f"; there are {listed(known)}"
    return f"MODEL.{key} names {name}, which is not registered{hint}"


def _useless_switch(cfg: CfgNode) -> Iterator[str]:
    """``MODEL.FREQFUSION.ENABLED`` without a part that looks at it."""
    named = [_BACKBONE, _SEMANTIC] if _SEMANTIC in _parts(cfg) else [_BACKBONE]
    parts = [part.registry.get(_value(cfg, part.key)) for part in named]
    known = cfg.MODEL.META_ARCHITECTURE in _PARTS
    if cfg.MODEL.FREQFUSION.ENABLED and known and not any(_may_fuse(part) for part in parts):
        yield (
            "MODEL.FREQFUSION.ENABLED has no effect with MODEL.BACKBONE.NAME"
            f" {cfg.MODEL.BACKBONE.NAME}, which has no FreqFusion: take a backbone such as"
            " build_resnet_freqfusion_fpn_backbone, or switch it off"
        )


def _may_fuse(part: Any) -> bool:
    """Whether a registered part uses FreqFusion, by its name; what others wrote might."""
    package = part.__module__.partition(".")[0]
    named = "freqfusion" in part.__name__.lower()
    return named or package not in ("detectron2", "freqfusion")


def _unknown_fusion(cfg: CfgNode) -> Iterator[str]:
    try:
        fusion_factory(cfg)
    except ValueError as error:
        if cfg.MODEL.FREQFUSION.ENABLED:
            yield str(error)


def _build_problems(cfg: CfgNode) -> Iterator[str]:
    """Build the backbone, compare what it makes with what is read, then build the model."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.TIMM.PRETRAINED = False
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            backbone = build_backbone(cfg)
            absent = list(_absent_features(cfg, backbone.output_shape()))
            if not absent:
                build_model(cfg)
    except (ValueError, ImportError, AssertionError) as error:
        if str(error):
            yield f"the model cannot be built: {error}"
    except Exception:
        # Not every model can be built without memory; the run will tell, with a trace.
        return
    else:
        yield from absent


def _absent_features(cfg: CfgNode, made: Mapping[str, ShapeSpec]) -> Iterator[str]:
    for part in _parts(cfg):
        if not part.features:
            continue
        wanted = _value(cfg, part.features)
        absent = [name for name in wanted if name not in made]
        if absent or not wanted:
            what = f"names {listed(absent)}" if absent else "is empty"
            yield (
                f"MODEL.{part.features} {what}, but {cfg.MODEL.BACKBONE.NAME} makes {listed(made)}"
            )
