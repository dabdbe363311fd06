"""What would stop a run, found in its configuration before the first iteration."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2 import modeling as d2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec

from freqfusion.config import (
    inner_architecture,
    is_supervised,
    modulates,
    value_of,
)
from freqfusion.data.validation.classes import check_classes, check_files_exist
from freqfusion.engine.checkpoint import has_checkpoint, local_weights
from freqfusion.engine.health import POLICIES
from freqfusion.engine.training_step import AMP_DTYPES
from freqfusion.files import check_checkpoint
from freqfusion.messages import did_you_mean
from freqfusion.modeling.sfm.backbone import NEEDS_A_HEAD

# Addresses that are left to the run, since a download may take long.
_DOWNLOADED = ("https://", "http://", "ftp://", "detectron2://")
_CHOICES: dict[str, Iterable[str]] = {
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.CROP.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
    "DATALOADER.BAD_SAMPLES": ("refuse", "skip"),
    "SOLVER.AMP.DTYPE": AMP_DTYPES,
    "SOLVER.NON_FINITE": POLICIES,
}
_AT_LEAST = {
    "TEST.VALIDATION_LOSS.MAX_IMAGES": 1,
    "SOLVER.CHECKPOINT.KEEP_LAST": 0,
    "SOLVER.REFERENCE_BATCH": 0,
    "SOLVER.NON_FINITE_PATIENCE": 1,
    "SOLVER.MAX_ITER": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
}
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "SOLVER.BASE_LR": (lambda rate: 0 <= rate < math.inf, "a finite number from 0 on"),
    "SOLVER.WEIGHT_DECAY": (lambda decay: 0 <= decay < math.inf, "a finite number from 0 on"),
    "SOLVER.EMA.DECAY": (lambda decay: 0 < decay < 1, "above 0 and below 1"),
    "DATALOADER.MAX_BAD_SAMPLES": (
        lambda most: 0 <= most < 1 or most == int(most) >= 1,
        "a share of the images from 0 to below 1, or a whole number of images such as 10.0",
    ),
}


class _Part(NamedTuple):
    """A part of a model: the key of its name, its registry, and the key of the maps it reads."""

    key: str
    registry: Any
    features: str = ""


_BACKBONE = _Part("BACKBONE.NAME", d2.BACKBONE_REGISTRY)
_ANCHORS = _Part("ANCHOR_GENERATOR.NAME", d2.ANCHOR_GENERATOR_REGISTRY)
_PROPOSALS = _Part("PROPOSAL_GENERATOR.NAME", d2.PROPOSAL_GENERATOR_REGISTRY, "RPN.IN_FEATURES")
_RPN_HEAD = _Part("RPN.HEAD_NAME", d2.RPN_HEAD_REGISTRY)
_ROI_HEADS = _Part("ROI_HEADS.NAME", d2.ROI_HEADS_REGISTRY, "ROI_HEADS.IN_FEATURES")
_BOX_HEAD = _Part("ROI_BOX_HEAD.NAME", d2.ROI_BOX_HEAD_REGISTRY)
_MASK_HEAD = _Part("ROI_MASK_HEAD.NAME", d2.ROI_MASK_HEAD_REGISTRY)
_SEMANTIC = _Part("SEM_SEG_HEAD.NAME", d2.SEM_SEG_HEADS_REGISTRY, "SEM_SEG_HEAD.IN_FEATURES")
_MASK2FORMER = _Part("SEM_SEG_HEAD.NAME", d2.SEM_SEG_HEADS_REGISTRY, "MASK2FORMER.IN_FEATURES")
_PIXEL_DECODER = _Part("MASK2FORMER.PIXEL_DECODER", d2.SEM_SEG_HEADS_REGISTRY)
_MODULATED_BACKBONE = _Part("SFM.BACKBONE", d2.BACKBONE_REGISTRY)
_MODULATED_HEAD = _Part("SFM.HEAD", d2.SEM_SEG_HEADS_REGISTRY)
# Without a registered name of its own.
_RETINANET = _Part("", {}, "RETINANET.IN_FEATURES")

_RPN = (_PROPOSALS, _RPN_HEAD, _ANCHORS)
_RCNN = (*_RPN, _ROI_HEADS, _BOX_HEAD, _MASK_HEAD)
_PARTS: dict[str, tuple[_Part, ...]] = {
    "GeneralizedRCNN": _RCNN,
    "Mask2Former": (_MASK2FORMER, _PIXEL_DECODER),
    "PanopticFPN": (*_RCNN, _SEMANTIC),
    "ProposalNetwork": _RPN,
    "RetinaNet": (_ANCHORS, _RETINANET),
    "SemanticSegmentor": (_SEMANTIC,),
}


def preflight(
    cfg: CfgNode, *, world_size: int = 1, resume: bool = False, eval_only: bool = False
) -> None:
    """Raise one ValueError with every problem as a numbered sentence; nothing where all is well.

    Looks at the keys, at the names of what is registered, at the model (built without memory for
    its weights), at the data sets' classes, files and folders, and at the annotations of those to
    test on; reads no image.

    Args:
        cfg: The configuration, with the device that it will run on.
        world_size: Number of processes of the run.
        resume: The last checkpoint of the output folder replaces ``MODEL.WEIGHTS``.
        eval_only: Nothing is trained, so ``DATASETS.TRAIN`` is not needed.
    """
    problems = check_config(cfg, 1 if eval_only else world_size)
    problems += [
        *_check_machine(cfg, world_size, eval_only),
        *check_model(cfg, build=not problems),
        *_check_weights(cfg, resume),
        *_check_datasets(cfg, eval_only),
    ]
    if not problems:
        return
    lines = [f"{number}. {problem}" for number, problem in enumerate(problems, start=1)]
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ValueError("\n".join([f"the configuration has {count}:", *lines]))


def check_config(cfg: CfgNode, world_size: int = 1) -> list[str]:
    """Return what the keys alone show cannot work, one sentence each that says what to change."""
    rules = (_value_rules, _model_rules, _mask2former_rules, _input_rules)
    problems = [problem for rule in (*rules, _run_rules) for problem in rule(cfg)]
    return [*problems, *_batch_rules(cfg, world_size)]


def check_model(cfg: CfgNode, *, build: bool = True) -> list[str]:
    """Return what is wrong with the model, a sentence each; later checks wait for earlier ones.

    With ``build`` it is built too, on the device that has shapes but no memory.
    """
    problems = [*_unknown_names(cfg)] or [*_useless_switches(cfg), *_modulated_maps(cfg)]
    if not problems and build:
        problems = [*_build_problems(cfg)]
    return problems


def _listed(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)


def _value_rules(cfg: CfgNode) -> Iterator[str]:
    """Single values that are never allowed."""
    for key, choices in _CHOICES.items():
        if value_of(cfg, key) not in choices:
            yield f"{key} must be one of {_listed(choices)}; got {value_of(cfg, key)!r}"
    for key, least in _AT_LEAST.items():
        if value_of(cfg, key) < least:
            yield f"{key} must be at least {least}; got {value_of(cfg, key)}"
    for key, (fits, words) in _RANGES.items():
        if not fits(value_of(cfg, key)):
            yield f"{key} must be {words}; got {value_of(cfg, key)}"


def _model_rules(cfg: CfgNode) -> Iterator[str]:
    """Masks, pixel statistics and the ignored label."""
    model, head = cfg.MODEL, cfg.MODEL.SEM_SEG_HEAD
    if inner_architecture(cfg) == "PanopticFPN" and not model.MASK_ON:
        yield "PanopticFPN joins masks with the semantic labels: set MODEL.MASK_ON True"
    if any(value <= 0 for value in model.PIXEL_STD):
        yield f"MODEL.PIXEL_STD must be positive, since images are divided by it: {model.PIXEL_STD}"
    if 0 <= head.IGNORE_VALUE < head.NUM_CLASSES:
        yield (
            f"MODEL.SEM_SEG_HEAD.IGNORE_VALUE {head.IGNORE_VALUE} is one of the"
            f" {head.NUM_CLASSES} classes: take a label from {head.NUM_CLASSES} to 255"
        )


def _mask2former_rules(cfg: CfgNode) -> Iterator[str]:
    """What Mask2Former is trained on."""
    if inner_architecture(cfg) != "Mask2Former":
        return
    if len(cfg.INPUT.TARGETS) != 1:
        yield (
            "Mask2Former learns from one kind of target: set INPUT.TARGETS to"
            ' ("semantic",), ("instances",) or ("panoptic",); got'
            f" {_listed(cfg.INPUT.TARGETS) or 'none'}"
        )
    if "instances" in cfg.INPUT.TARGETS and not cfg.MODEL.MASK_ON:
        yield "Mask2Former learns masks: set MODEL.MASK_ON True"
    if cfg.MODEL.MASK2FORMER.TEST.PANOPTIC_ON and cfg.INPUT.TARGETS != ("panoptic",):
        yield (
            "MODEL.MASK2FORMER.TEST.PANOPTIC_ON needs a model of things and stuff: set"
            ' INPUT.TARGETS ("panoptic",), or PANOPTIC_ON False'
        )


def _input_rules(cfg: CfgNode) -> Iterator[str]:
    """Sizes of images, which Detectron2 would make smaller without a word."""
    node = cfg.INPUT
    used = {"TEST": (node.MIN_SIZE_TEST,)}
    if not node.SCALE_JITTER.ENABLED:
        used["TRAIN"] = node.MIN_SIZE_TRAIN
    for when, sizes in used.items():
        largest = node[f"MAX_SIZE_{when}"]
        if not sizes or max(sizes) > largest:
            yield (
                f"INPUT.MIN_SIZE_{when} {_listed(sizes) or 'is empty and'} must not exceed"
                f" INPUT.MAX_SIZE_{when} {largest}: the first is for the shorter side of an image,"
                " the second limits the longer one"
            )


def _run_rules(cfg: CfgNode) -> Iterator[str]:
    """Evaluations, precision and schedule."""
    node, best = cfg.SOLVER, cfg.TEST.BEST_CHECKPOINT
    if best and "/" not in best:
        yield (
            f"TEST.BEST_CHECKPOINT {best} must be a task and its score, such as panoptic_seg/PQ,"
            " segm/AP or sem_seg/mIoU"
        )
    for key in ("BEST_CHECKPOINT", "VALIDATION_LOSS.ENABLED"):
        if value_of(cfg.TEST, key) and not cfg.DATASETS.TEST:
            yield f"TEST.{key} needs a data set to evaluate: name one in DATASETS.TEST"
    on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    if node.AMP.ENABLED and node.AMP.DTYPE == "float16" and not on_gpu:
        yield (
            f"SOLVER.AMP in float16 needs a GPU, but MODEL.DEVICE is {cfg.MODEL.DEVICE}: set"
            " SOLVER.AMP.DTYPE bfloat16, or SOLVER.AMP.ENABLED False"
        )
    if sorted(node.STEPS) != list(node.STEPS):
        yield f"SOLVER.STEPS must grow: write {_listed(sorted(node.STEPS))}"
    if node.REFERENCE_BATCH and node.REFERENCE_WORLD_SIZE:
        yield (
            "SOLVER.REFERENCE_BATCH and SOLVER.REFERENCE_WORLD_SIZE both scale the learning rate:"
            " set one of them to 0"
        )


def _batch_rules(cfg: CfgNode, world_size: int) -> Iterator[str]:
    """The batch can be shared evenly."""
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    # Detectron2 scales a batch that is meant for another number of processes.
    count, key = (reference, "SOLVER.REFERENCE_WORLD_SIZE") if reference else (world_size, "")
    if batch < 1:
        yield f"SOLVER.IMS_PER_BATCH must be at least 1; got {batch}"
    elif batch % count:
        whose = f"{key} {count}" if key else f"the {count} processes"
        lower = batch - batch % count
        near = f"{lower} or {lower + count}" if lower else str(count)
        yield (
            f"SOLVER.IMS_PER_BATCH {batch} is the number of images of all processes together and"
            f" must be a multiple of {whose}: take {near}"
        )
    elif not 1 <= cfg.SOLVER.ACCUMULATE_STEPS <= batch // count:
        yield (
            f"SOLVER.ACCUMULATE_STEPS splits the {batch // count} images that each process has of a"
            f" batch, so it must be from 1 to {batch // count}; got {cfg.SOLVER.ACCUMULATE_STEPS}"
        )


def _parts(cfg: CfgNode) -> list[_Part]:
    """Return the parts that the meta-architecture has, the backbone first."""
    model = cfg.MODEL
    without: list[_Part] = []
    if model.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        without += _RPN
    if not model.MASK_ON:
        without.append(_MASK_HEAD)
    if model.ROI_HEADS.NAME not in ("StandardROIHeads", "CascadeROIHeads"):
        without.append(_BOX_HEAD)
    used = [part for part in _PARTS.get(inner_architecture(cfg), ()) if part not in without]
    if modulates(cfg.MODEL.BACKBONE.NAME):
        used.insert(0, _MODULATED_BACKBONE)
    if _SEMANTIC in used and model.SEM_SEG_HEAD.NAME == "SFMSemSegHead":
        used.append(_MODULATED_HEAD)
    return [_BACKBONE, *used]


def _unknown_names(cfg: CfgNode) -> Iterator[str]:
    key, known = "META_ARCHITECTURE", [name for name, _ in d2.META_ARCH_REGISTRY]
    if is_supervised(cfg):
        known.remove(cfg.MODEL.META_ARCHITECTURE)
        key = f"SFM.{key}"
    named = [(key, known)]
    named += [(part.key, [name for name, _ in part.registry]) for part in _parts(cfg) if part.key]
    for key, known in named:
        name = value_of(cfg.MODEL, key)
        if name not in known:
            what = f"names {name}, which is not registered" if name else "is empty"
            hint = did_you_mean(name, known) or f"; there are {_listed(known)}"
            yield f"MODEL.{key} {what}{hint}"


def _useless_switches(cfg: CfgNode) -> Iterator[str]:
    """``ENABLED`` of FreqFusion or of SFM without a part that looks at it."""
    backbone = cfg.MODEL.BACKBONE.NAME
    if (
        cfg.MODEL.SFM.ENABLED
        and not modulates(cfg.MODEL.BACKBONE.NAME)
        and _is_known(_named(cfg, _BACKBONE))
    ):
        yield (
            f"MODEL.SFM.ENABLED has no effect with MODEL.BACKBONE.NAME {backbone}, which is not"
            " modulated: take build_sfm_backbone or build_sfm_freqfusion_fpn_backbone, with the"
            " backbone's name in MODEL.SFM.BACKBONE, or switch it off"
        )
    fusing = (_BACKBONE, _MODULATED_BACKBONE, _SEMANTIC, _MODULATED_HEAD, _PIXEL_DECODER)
    parts = [_named(cfg, part) for part in _parts(cfg) if part in fusing]
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
    heads = [_named(cfg, part) for part in _parts(cfg) if part in (_SEMANTIC, _PIXEL_DECODER)]
    undone = any("sfm" in head.__name__.lower() or not _is_known(head) for head in heads)
    if inner_architecture(cfg) in _PARTS and not undone:
        yield NEEDS_A_HEAD


def _named(cfg: CfgNode, part: _Part) -> Any:
    return part.registry.get(value_of(cfg.MODEL, part.key))


def _is_known(part: Any) -> bool:
    """Return whether a registered part is not one that others wrote."""
    return part.__module__.partition(".")[0] in ("detectron2", "freqfusion")


def _may_fuse(part: Any) -> bool:
    """Return whether a part uses FreqFusion, by its name or a base's; what others wrote might."""
    names = [kind.__name__ for kind in (part, *getattr(part, "__mro__", ()))]
    fuses = any("freqfusion" in name.lower() or name == "LightHamHead" for name in names)
    return fuses or not _is_known(part)


def _build_problems(cfg: CfgNode) -> Iterator[str]:
    """Build the backbone, compare what it makes with what is read, then build the model."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    cfg.MODEL.TIMM.PRETRAINED = False
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            backbone = d2.build_backbone(cfg)
            absent = list(_absent_features(cfg, backbone.output_shape()))
            if not absent:
                d2.build_model(cfg)
    except KeyError as error:
        yield f"the model cannot be built: it has no {error}, as a stage, a map or a depth"
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
        wanted = value_of(cfg.MODEL, part.features) if part.features else ["none"]
        absent = [name for name in wanted if part.features and name not in made]
        if absent or not wanted:
            what = f"names {_listed(absent)}" if absent else "is empty"
            yield (
                f"MODEL.{part.features} {what}, but {cfg.MODEL.BACKBONE.NAME} makes {_listed(made)}"
            )


def _check_machine(cfg: CfgNode, world_size: int, eval_only: bool) -> Iterator[str]:
    device = cfg.MODEL.DEVICE
    if world_size > 1 and device.startswith("cuda:"):
        yield (
            f"MODEL.DEVICE {device} is one GPU for all {world_size} processes: set MODEL.DEVICE"
            " cuda, and each process uses its own"
        )
    normalized = [section for section in cfg.MODEL.values() if isinstance(section, CfgNode)]
    names = {section.get("NORM") for section in normalized} & {"SyncBN", "nnSyncBN"}
    if names and world_size > 1 and device == "cpu" and not eval_only:
        yield f"the NORM {_listed(names)} needs GPUs in several processes: take naiveSyncBN or GN"
    if device.startswith("cuda") and not torch.cuda.is_available():
        yield f"MODEL.DEVICE is {device}, but there is no GPU: set MODEL.DEVICE cpu"


def _check_weights(cfg: CfgNode, resume: bool) -> Iterator[str]:
    """Whether the weights are there and can be read, as far as that shows without reading them."""
    path = cfg.MODEL.WEIGHTS
    if not path or (resume and has_checkpoint(cfg.OUTPUT_DIR)) or path.startswith(_DOWNLOADED):
        return
    try:
        local = local_weights(path)
        if os.path.exists(local):
            check_checkpoint(local)
        else:
            yield f"MODEL.WEIGHTS names {path}, which does not exist"
    except (ValueError, OSError) as error:
        yield f"MODEL.WEIGHTS: {error}"


def _check_datasets(cfg: CfgNode, eval_only: bool) -> Iterator[str]:
    """Names, files and classes of the data sets; notes are left to the tool that checks data."""
    kinds = ["TEST"] if eval_only else ["TRAIN", "TEST"]
    if not cfg.DATASETS[kinds[0]]:
        doing = "evaluate" if eval_only else "train on"
        yield f"DATASETS.{kinds[0]} names no data set to {doing}"
    named = [(kind, name) for kind in kinds for name in cfg.DATASETS[kind]]
    known = DatasetCatalog.list()
    for kind, name in named:
        if name not in known:
            hint = did_you_mean(name, known) or "; DATASETS.DECLARED accepts YAML files of your own"
            yield f"DATASETS.{kind} names {name}, which is not registered{hint}"
    names: Sequence[str] = list(dict.fromkeys(name for _, name in named if name in known))
    findings = [*check_files_exist(names), *check_classes(cfg, names)]
    errors = [finding.sentence() for finding in findings if finding.severity == "error"]
    yield from errors
    if not errors and not eval_only:
        yield from _unreadable_test_sets(cfg, [one for one in cfg.DATASETS.TEST if one in known])


def _unreadable_test_sets(cfg: CfgNode, names: Iterable[str]) -> Iterator[str]:
    """What would end the run at its first evaluation, maybe hours later."""
    from freqfusion.evaluation import build_evaluator

    for name in names:
        try:
            DatasetCatalog.get(name)
            with tempfile.TemporaryDirectory() as folder:
                build_evaluator(cfg, name, folder)
        # Detectron2 says what a JSON lacks by assertions and KeyErrors.
        except (ValueError, AssertionError, KeyError, OSError) as error:
            reason = " ".join(str(part) for part in error.args) or type(error).__name__
            yield f"the data set {name} of DATASETS.TEST cannot be evaluated: {reason}"
