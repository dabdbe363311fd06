"""Whether a configuration names models that exist and that fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from freqfusion.config_check.wrapped import (
    SUPERVISING,
    architecture_key,
    inner_architecture,
    is_supervised,
    modulates,
)
from freqfusion.modeling.fusion import fusion_factory
from freqfusion.modeling.sfm.backbone import NEEDS_A_HEAD


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
_MASK2FORMER = Part("SEM_SEG_HEAD.NAME", SEM_SEG_HEADS_REGISTRY, "MASK2FORMER.IN_FEATURES")
_PIXEL_DECODER = Part("MASK2FORMER.PIXEL_DECODER", SEM_SEG_HEADS_REGISTRY)
_WRAPPED_BACKBONE = Part("SFM.BACKBONE", BACKBONE_REGISTRY)
_WRAPPED_HEAD = Part("SFM.HEAD", SEM_SEG_HEADS_REGISTRY)
# Without a registered name of its own.
_RETINANET = Part("", {}, "RETINANET.IN_FEATURES")

_RPN = (_PROPOSALS, _RPN_HEAD, _ANCHORS)
_RCNN = (*_RPN, _ROI_HEADS, _BOX_HEAD, _MASK_HEAD)
_PARTS: dict[str, tuple[Part, ...]] = {
    "GeneralizedRCNN": _RCNN,
    "Mask2Former": (_MASK2FORMER, _PIXEL_DECODER),
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
        problems = [*_useless_switches(cfg), *_modulated_maps(cfg), *_unknown_fusion(cfg)]
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
    used = [part for part in _PARTS.get(inner_architecture(cfg), ()) if part not in without]
    if modulates(model.BACKBONE.NAME):
        used.insert(0, _WRAPPED_BACKBONE)
    if _SEMANTIC in used and model.SEM_SEG_HEAD.NAME == "SFMSemSegHead":
        used.append(_WRAPPED_HEAD)
    return [_BACKBONE, *used]


def _value(cfg: CfgNode, key: str) -> Any:
    node = cfg.MODEL
    for name in key.split("."):
        node = node[name]
    return node


def _unknown_names(cfg: CfgNode) -> Iterator[str]:
    key, known = architecture_key(cfg), [name for name, _ in META_ARCH_REGISTRY]
    if is_supervised(cfg):
        known.remove(SUPERVISING)
    if inner_architecture(cfg) not in known:
        yield _unregistered(key, inner_architecture(cfg), known)
    for part in _parts(cfg):
        if part.key and _value(cfg, part.key) not in part.registry:
            names = [name for name, _ in part.registry]
            yield _unregistered(part.key, _value(cfg, part.key), names)


def _unregistered(key: str, name: str, known: Sequence[str]) -> str:
    if not name:
        return f"MODEL.{key} is empty; there are {listed(known)}"
    hint = did_you_mean(name, known) or f"; there are {listed(known)}"
    return f"MODEL.{key} names {name}, which is not registered{hint}"


def _useless_switches(cfg: CfgNode) -> Iterator[str]:
    """``ENABLED`` of FreqFusion or of SFM without a part that looks at it."""
    backbone = cfg.MODEL.BACKBONE.NAME
    if cfg.MODEL.SFM.ENABLED and not modulates(backbone) and _is_known(_named(cfg, _BACKBONE)):
        yield (
            f"MODEL.SFM.ENABLED has no effect with MODEL.BACKBONE.NAME {backbone}, which is not"
            " modulated: take build_sfm_backbone or build_sfm_freqfusion_fpn_backbone, with the"
            " backbone's name in MODEL.SFM.BACKBONE, or switch it off"
        )
    places = (_BACKBONE, _WRAPPED_BACKBONE, _SEMANTIC, _WRAPPED_HEAD, _PIXEL_DECODER)
    parts = [_named(cfg, part) for part in _parts(cfg) if part in places]
    known = inner_architecture(cfg) in _PARTS
    if cfg.MODEL.FREQFUSION.ENABLED and known and not any(_may_fuse(part) for part in parts):
        yield (
            f"MODEL.FREQFUSION.ENABLED has no effect with MODEL.BACKBONE.NAME {backbone}, which has"
            " no FreqFusion: take a backbone such as build_resnet_freqfusion_fpn_backbone, or"
            " switch it off"
        )


def _modulated_maps(cfg: CfgNode) -> Iterator[str]:
    """Maps that stay modulated need a head that knows it."""
    node, model = cfg.MODEL.SFM, cfg.MODEL
    if not node.ENABLED or node.DEMODULATE != "head" or model.BACKBONE.NAME != "build_sfm_backbone":
        return
    heads = [part for part in _parts(cfg) if part in (_SEMANTIC, _PIXEL_DECODER)]
    named = [_named(cfg, part) for part in heads]
    undone = any("sfm" in part.__name__.lower() or not _is_known(part) for part in named)
    if inner_architecture(cfg) in _PARTS and not undone:
        yield NEEDS_A_HEAD


def _named(cfg: CfgNode, part: Part) -> Any:
    return part.registry.get(_value(cfg, part.key))


def _is_known(part: Any) -> bool:
    """Whether a registered part is not one that others wrote."""
    return part.__module__.partition(".")[0] in ("detectron2", "freqfusion")


def _may_fuse(part: Any) -> bool:
    """Whether a part uses FreqFusion, by its name or a base's; what others wrote might."""
    names = [kind.__name__.lower() for kind in (part, *getattr(part, "__mro__", ()))]
    return any("freqfusion" in name for name in names) or not _is_known(part)


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
