"""Rules between the keys that describe the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from detectron2.config import CfgNode

from freqfusion.config_check.names import listed
from freqfusion.config_check.wrapped import inner_architecture, inner_backbone
from freqfusion.layers.checks import check_choice, check_odd, check_positive
from freqfusion.layers.freqfusion import UpsampleMode
from freqfusion.layers.reassembly import PaddingMode
from freqfusion.layers.sampler import FusionInit, SamplerFeatures

_RCNN = ("GeneralizedRCNN", "PanopticFPN", "ProposalNetwork")
_SMALL_RESNETS = (18, 34)
_RESNETS = (*_SMALL_RESNETS, 50, 101, 152)
# The section of MODEL that describes a backbone, by a part of its builder's name.
_SECTIONS = {"timm": "TIMM", "resnet": "RESNETS", "internimage": "INTERNIMAGE", "swin": "SWIN"}
_CHOICES = {
    "UPSAMPLE_MODE": UpsampleMode,
    "PADDING_MODE": PaddingMode,
    "SAMPLER_FEATURES": SamplerFeatures,
    "INIT": FusionInit,
}


def resnet_rules(cfg: CfgNode) -> Iterator[str]:
    """Depths, and what the small ResNets cannot have."""
    node = cfg.MODEL.RESNETS
    if "resnet" not in inner_backbone(cfg):
        return
    if node.DEPTH not in _RESNETS:
        yield f"MODEL.RESNETS.DEPTH must be one of {listed(_RESNETS)}; got {node.DEPTH}"
    if node.RES5_DILATION not in (1, 2):
        yield f"MODEL.RESNETS.RES5_DILATION must be 1 or 2; got {node.RES5_DILATION}"
    if node.DEPTH not in _SMALL_RESNETS:
        return
    for key, needed in (("RES2_OUT_CHANNELS", 64), ("RES5_DILATION", 1), ("NUM_GROUPS", 1)):
        if node[key] != needed:
            yield (
                f"MODEL.RESNETS.DEPTH {node.DEPTH} needs MODEL.RESNETS.{key} {needed};"
                f" got {node[key]}"
            )
    if any(node.DEFORM_ON_PER_STAGE):
        yield (
            f"MODEL.RESNETS.DEPTH {node.DEPTH} has no deformable convolutions: set"
            " MODEL.RESNETS.DEFORM_ON_PER_STAGE [False, False, False, False]"
        )


def pyramid_rules(cfg: CfgNode) -> Iterator[str]:
    """The stages that a pyramid stands on are made."""
    name, wanted = cfg.MODEL.BACKBONE.NAME, list(cfg.MODEL.FPN.IN_FEATURES)
    kind = next((_SECTIONS[part] for part in _SECTIONS if part in inner_backbone(cfg)), None)
    if "fpn" not in name or kind is None:
        return
    if not wanted:
        yield (
            f"MODEL.FPN.IN_FEATURES is empty, but {name} is a pyramid: name the stages that it"
            " stands on, such as [res2, res3, res4, res5]"
        )
    if sorted(wanted) != wanted:
        yield f"MODEL.FPN.IN_FEATURES must go from fine to coarse: write {listed(sorted(wanted))}"
    made = list(cfg.MODEL[kind].OUT_FEATURES)
    needed = [*wanted, "res5"] if "retinanet" in name and "res5" not in wanted else wanted
    absent = [stage for stage in needed if stage not in made]
    if absent:
        yield (
            f"the pyramid {name} needs {listed(absent)}, which MODEL.{kind}.OUT_FEATURES does not"
            f" name: add it to {listed(made)}"
        )


def anchor_rules(cfg: CfgNode) -> Iterator[str]:
    """One list of anchors for each level, or one for all."""
    architecture = inner_architecture(cfg)
    if architecture == "RetinaNet":
        key, levels = "MODEL.RETINANET.IN_FEATURES", cfg.MODEL.RETINANET.IN_FEATURES
    elif architecture in _RCNN and cfg.MODEL.PROPOSAL_GENERATOR.NAME in ("RPN", "RRPN"):
        key, levels = "MODEL.RPN.IN_FEATURES", cfg.MODEL.RPN.IN_FEATURES
    else:
        return
    node = cfg.MODEL.ANCHOR_GENERATOR
    for name in ("SIZES", "ASPECT_RATIOS"):
        lists = node[name]
        if lists and not all(isinstance(entry, list | tuple) for entry in lists):
            yield f"MODEL.ANCHOR_GENERATOR.{name} must be a list of lists, such as [[32], [64]]"
        elif len(lists) not in (1, len(levels)):
            yield (
                f"MODEL.ANCHOR_GENERATOR.{name} has {len(lists)} lists, but {key} names"
                f" {len(levels)} levels ({listed(levels)}): give one list for each, or one for all"
            )


def fusion_rules(cfg: CfgNode) -> Iterator[str]:
    """``MODEL.FREQFUSION``, as far as the chosen fusion reads it; nothing where it is off."""
    node = cfg.MODEL.FREQFUSION
    if not node.ENABLED:
        return
    kind = node.FUSE_TYPE
    if kind == "freqfusion":
        odd, choices = ["LOWPASS_KERNEL", "HIGHPASS_KERNEL", "ENCODER_KERNEL"], _CHOICES
    else:
        odd, choices = (
            ["LOWPASS_KERNEL", "ENCODER_KERNEL"],
            {"PADDING_MODE": PaddingMode, "INIT": FusionInit},
        )
    if kind in ("freqfusion", "carafe"):
        for name in odd:
            yield from _fails(check_odd, name, node)
        for name, allowed in choices.items():
            yield from _fails(check_choice, name, node, allowed)
        yield from _fails(check_positive, "COMPRESSED_CHANNELS", node)
    if kind == "freqfusion":
        for name in ("ENCODER_DILATION", "COMPRESS_RATIO"):
            yield from _fails(check_positive, name, node)
        yield from _width_rules(node)
    if kind == "dysample" or (kind == "freqfusion" and node.FEATURE_RESAMPLE):
        yield from _group_rules(cfg)


def _fails(check: Callable[..., None], name: str, node: CfgNode, *options: Any) -> Iterator[str]:
    """The message of a layer's own check of one key of ``MODEL.FREQFUSION``."""
    try:
        check(*options, **{f"MODEL.FREQFUSION.{name}": node[name]})
    except ValueError as error:
        yield str(error)


def _width_rules(node: CfgNode) -> Iterator[str]:
    width = node.COMPRESSED_CHANNELS
    uneven = width < 8 or width % (width // 8)
    if node.FEATURE_RESAMPLE and node.FEATURE_RESAMPLE_NORM and uneven:
        yield (
            f"MODEL.FREQFUSION.COMPRESSED_CHANNELS must be a multiple of 8, got {width}; or switch"
            " MODEL.FREQFUSION.FEATURE_RESAMPLE_NORM off"
        )
    if node.ALIGN_CORNERS and node.UPSAMPLE_MODE == "nearest":
        yield (
            "MODEL.FREQFUSION.ALIGN_CORNERS needs MODEL.FREQFUSION.UPSAMPLE_MODE bilinear or"
            " bicubic, not nearest"
        )


def _group_rules(cfg: CfgNode) -> Iterator[str]:
    groups, width = cfg.MODEL.FREQFUSION.FEATURE_RESAMPLE_GROUP, cfg.MODEL.FPN.OUT_CHANNELS
    if groups < 1:
        yield from _fails(check_positive, "FEATURE_RESAMPLE_GROUP", cfg.MODEL.FREQFUSION)
    elif "fpn" in cfg.MODEL.BACKBONE.NAME and width % groups:
        yield (
            f"MODEL.FREQFUSION.FEATURE_RESAMPLE_GROUP {groups} must divide MODEL.FPN.OUT_CHANNELS"
            f" {width}, since each group of channels is moved as a whole"
        )


def model_rules(cfg: CfgNode) -> Iterator[str]:
    """Masks, pixel statistics and the ignored label."""
    model = cfg.MODEL
    if inner_architecture(cfg) == "PanopticFPN" and not model.MASK_ON:
        yield "PanopticFPN joins masks with the semantic labels: set MODEL.MASK_ON True"
    if len(model.PIXEL_MEAN) != len(model.PIXEL_STD):
        yield (
            f"MODEL.PIXEL_MEAN has {len(model.PIXEL_MEAN)} numbers and MODEL.PIXEL_STD"
            f" {len(model.PIXEL_STD)}; give both one for each channel of the image"
        )
    if any(value <= 0 for value in model.PIXEL_STD):
        yield f"MODEL.PIXEL_STD must be positive, since images are divided by it: {model.PIXEL_STD}"
    head = model.SEM_SEG_HEAD
    if 0 <= head.IGNORE_VALUE < head.NUM_CLASSES:
        yield (
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE {head.IGNORE_VALUE} is one of the"
            f" {head.NUM_CLASSES} classes: take a label from {head.NUM_CLASSES} to 255"
        )


def weight_warnings(cfg: CfgNode) -> Iterator[str]:
    """What needs weights that are not given."""
    if cfg.MODEL.WEIGHTS or "resnet" not in inner_backbone(cfg):
        return
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        yield (
            "MODEL.RESNETS.NORM FrozenBN keeps statistics of given weights, but MODEL.WEIGHTS is"
            " empty: the network will hardly train; set MODEL.WEIGHTS, or MODEL.RESNETS.NORM BN"
        )
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        yield (
            f"MODEL.BACKBONE.FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} freezes random weights, since"
            " MODEL.WEIGHTS is empty: set MODEL.WEIGHTS, or MODEL.BACKBONE.FREEZE_AT 0"
        )


def mask2former_rules(cfg: CfgNode) -> Iterator[str]:
    """What Mask2Former is trained on, and widths that must divide."""
    if inner_architecture(cfg) != "Mask2Former":
        return
    node = cfg.MODEL.MASK2FORMER
    if len(cfg.INPUT.TARGETS) != 1:
        yield (
            "Mask2Former learns from one kind of target: set INPUT.TARGETS to"
            ' ("semantic",), ("instances",) or ("panoptic",); got'
            f" {listed(cfg.INPUT.TARGETS) or 'none'}"
        )
    if "instances" in cfg.INPUT.TARGETS and not cfg.MODEL.MASK_ON:
        yield "Mask2Former learns masks: set MODEL.MASK_ON True"
    if node.CONV_DIM % 32:
        yield f"MODEL.MASK2FORMER.CONV_DIM must be a multiple of 32; got {node.CONV_DIM}"
    for key in ("CONV_DIM", "HIDDEN_DIM"):
        if node[key] % node.NHEADS:
            yield (
                f"MODEL.MASK2FORMER.NHEADS {node.NHEADS} must divide MODEL.MASK2FORMER.{key}"
                f" {node[key]}"
            )
    if node.TEST.PANOPTIC_ON and cfg.INPUT.TARGETS != ("panoptic",):
        yield (
            "MODEL.MASK2FORMER.TEST.PANOPTIC_ON needs a model of things and stuff: set"
            ' INPUT.TARGETS ("panoptic",), or PANOPTIC_ON False'
        )
