"""What cannot work is told by a sentence before anything is built; one fault each."""

import json

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY
from sfm_models import sfm_cfg
from toy_configs import change, resnet18_cfg

from freqfusion.config import (
    value_of,
)
from freqfusion.engine import checks, preflight
from freqfusion.engine.checks import check_config, check_model
from freqfusion.engine.setup import config_warnings
from freqfusion.messages import did_you_mean

PANOPTIC = {
    "MODEL__META_ARCHITECTURE": "PanopticFPN",
    "MODEL__MASK_ON": True,
    "MODEL__WEIGHTS": "r18.pth",
    "MODEL__RPN__IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64], [128]],
    "DATASETS__TEST": ("val",),
    "TEST__EVAL_PERIOD": 100,
}
SFM = {
    "MODEL__META_ARCHITECTURE": "SFMSegmentor",
    "MODEL__SFM__ENABLED": True,
    "MODEL__SFM__META_ARCHITECTURE": "PanopticFPN",
    "MODEL__BACKBONE__NAME": "build_sfm_freqfusion_fpn_backbone",
}


def sound(**keys: object) -> CfgNode:
    """A Panoptic FPN without a fault, then changed; frozen, since rules must not change it."""
    cfg = change(resnet18_cfg(), PANOPTIC | keys)
    cfg.freeze()
    return cfg


def test_nothing_is_wrong_with_a_sound_configuration():
    assert check_config(sound(), world_size=8) == []
    assert list(config_warnings(sound())) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"DATALOADER__MAX_BAD_SAMPLES": 2.5}, "a whole number of images such as 10.0; got 2.5"),
        ({"SOLVER__EMA__DECAY": 1.0}, "SOLVER.EMA.DECAY must be above 0 and below 1; got 1.0"),
        (
            {"SOLVER__REFERENCE_BATCH": 16, "SOLVER__REFERENCE_WORLD_SIZE": 8},
            "both scale the learning rate: set one of them to 0",
        ),
        (
            {"SOLVER__ACCUMULATE_STEPS": 17},
            "the 2 images that each process has of a batch, so it must be from 1 to 2; got 17",
        ),
        ({"MODEL__MASK_ON": False}, "set MODEL.MASK_ON True"),
        ({"MODEL__PIXEL_STD": [1.0, 0.0, 1.0]}, "MODEL.PIXEL_STD must be positive"),
        (
            {"MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 0},
            "IGNORE_VALUE 0 is one of the 54 classes: take a label from 54 to 255",
        ),
        ({"INPUT__MIN_SIZE_TRAIN": (640, 1400)}, "INPUT.MIN_SIZE_TRAIN 640, 1400 must not exceed"),
        ({"INPUT__MIN_SIZE_TRAIN": ()}, "INPUT.MIN_SIZE_TRAIN is empty"),
        ({"TEST__BEST_CHECKPOINT": "PQ"}, "such as panoptic_seg/PQ, segm/AP or sem_seg/mIoU"),
        (
            {"TEST__BEST_CHECKPOINT": "segm/AP", "DATASETS__TEST": ()},
            "TEST.BEST_CHECKPOINT needs a data set to evaluate",
        ),
        ({"SOLVER__AMP__ENABLED": True}, "MODEL.DEVICE is cpu: set SOLVER.AMP.DTYPE bfloat16"),
        ({"SOLVER__STEPS": (300, 200)}, "SOLVER.STEPS must grow: write 200, 300"),
        ({"SOLVER__BASE_LR": float("nan")}, "SOLVER.BASE_LR must be a finite number from 0 on"),
        ({"SOLVER__IMS_PER_BATCH": 0}, "SOLVER.IMS_PER_BATCH must be at least 1"),
        ({"SOLVER__IMS_PER_BATCH": 15}, "a multiple of the 8 processes: take 8 or 16"),
        (
            {"SOLVER__REFERENCE_WORLD_SIZE": 5},
            "a multiple of SOLVER.REFERENCE_WORLD_SIZE 5: take 15 or 20",
        ),
    ],
)
def test_one_sentence_tells_what_is_wrong(keys, sentence):
    problems = check_config(sound(**keys), world_size=8)
    assert len(problems) == 1, problems
    assert sentence in problems[0]


@pytest.mark.parametrize("key", [*checks._CHOICES, *checks._AT_LEAST])
def test_values_that_are_never_allowed(key):
    """One of each table, whose bounds and choices the sentence names."""
    default, name = value_of(sound(), key), key.replace(".", "__")
    wrong = "x" if key in checks._CHOICES else type(default)(checks._AT_LEAST[key] - 1)
    (problem,) = check_config(sound(**{name: wrong}))
    allowed = checks._CHOICES.get(key) or [checks._AT_LEAST[key]]
    assert problem.startswith(f"{key} must be ")
    assert all(str(value) in problem for value in allowed)
    assert check_config(sound(**{name: default})) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"MODEL__MASK_ON": False}, "set MODEL.MASK_ON True"),
        (
            {
                "MODEL__SFM__META_ARCHITECTURE": "Mask2Former",
                "INPUT__TARGETS": ("semantic", "instances"),
            },
            "Mask2Former learns from one kind of target",
        ),
    ],
)
def test_rules_see_what_is_modulated(keys, sentence):
    assert check_config(sound(**SFM)) == []
    problems = check_config(sound(**SFM | keys))
    assert len(problems) == 1, problems
    assert sentence in problems[0]
    assert len(list(config_warnings(sound(**SFM | {"MODEL__WEIGHTS": ""})))) == 1


@pytest.mark.parametrize(
    "keys",
    [
        {"MODEL__META_ARCHITECTURE": "SemanticSegmentor", "MODEL__MASK_ON": False},
        {"INPUT__SCALE_JITTER__ENABLED": True, "INPUT__MIN_SIZE_TRAIN": ()},
        {"MODEL__SEM_SEG_HEAD__IGNORE_VALUE": -1},
    ],
)
def test_what_is_not_used_may_be_anything(keys):
    assert check_config(sound(**keys), world_size=8) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"MODEL__WEIGHTS": ""}, "keeps statistics of given weights, but MODEL.WEIGHTS is empty"),
        (
            {
                "MODEL__WEIGHTS": "",
                "MODEL__RESNETS__NORM": "BN",
                "MODEL__BACKBONE__FREEZE_AT": 2,
            },
            "FREEZE_AT 2 freezes random weights",
        ),
        ({"SOLVER__STEPS": (50000,)}, "SOLVER.STEPS [50000] come after the last iteration"),
    ],
)
def test_one_sentence_warns(keys, sentence):
    cfg = sound(**keys)
    assert check_config(cfg) == []
    found = list(config_warnings(cfg))
    assert len(found) == 1, found
    assert sentence in found[0]


def test_nearest_names_come_first_and_strangers_never():
    known = ["MODEL.FREQFUSION.FUSE_TYPE", "MODEL.FPN.FUSE_TYPE", "SOLVER.BASE_LR"]
    one = "; did you mean MODEL.FREQFUSION.FUSE_TYPE?"
    assert did_you_mean("MODEL.FREQFUSION.FUSE_TYP", known) == one
    both = "; did you mean MODEL.FPN.FUSE_TYPE or MODEL.FREQFUSION.FUSE_TYPE?"
    assert did_you_mean("MODEL.FUSE_TYPE", known) == both
    assert did_you_mean("solver.base_lr", known) == "; did you mean SOLVER.BASE_LR?"
    assert did_you_mean("anything", []) == ""
    assert did_you_mean("SOLVER.BASELR", known) == "; did you mean SOLVER.BASE_LR?"
    assert did_you_mean("OPTIMIZER", known) == ""


def problems(cfg, **options):
    with pytest.raises(ValueError, match="the configuration has") as caught:
        preflight(cfg, **options)
    return str(caught.value).splitlines()


def test_sound_configuration_passes_and_is_left_as_it_is(small_cfg):
    state = torch.get_rng_state()
    before = small_cfg.clone()
    small_cfg.freeze()
    assert preflight(small_cfg) is None
    assert small_cfg == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"MODEL__META_ARCHITECTURE": "PanopticFNP"},
            "MODEL.META_ARCHITECTURE names PanopticFNP, which is not registered; did you mean"
            " PanopticFPN?",
        ),
        ({"MODEL__ROI_BOX_HEAD__NAME": ""}, "MODEL.ROI_BOX_HEAD.NAME is empty; there are FastRCNN"),
        (
            {"MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p2", "p7"]},
            "MODEL.SEM_SEG_HEAD.IN_FEATURES names p7, but build_resnet_freqfusion_fpn_backbone"
            " makes p2, p3, p4, p5, p6",
        ),
        (
            {"MODEL__RPN__IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"]},
            "MODEL.RPN.IN_FEATURES names p7",
        ),
        ({"MODEL__FREQFUSION__LOWPASS_KERNEL": 4}, "built: lowpass_kernel must be a positive odd"),
        ({"MODEL__RESNETS__DEPTH": 18}, "Must set MODEL.RESNETS.RES2_OUT_CHANNELS"),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16]]}, "anchor generator"),
        ({"MODEL__RESNETS__DEPTH": 20}, "the model cannot be built: it has no 20, as a stage"),
        (
            {"MODEL__RESNETS__OUT_FEATURES": ["res3", "res4", "res5"]},
            "it has no 'res2', as a stage",
        ),
        (
            {"MODEL__FREQFUSION__FUSE_TYPE": "bicubic"},
            "MODEL.FREQFUSION.FUSE_TYPE must be one of freqfusion, nearest, bilinear, carafe",
        ),
        (
            {"MODEL__BACKBONE__NAME": "build_resnet_fpn_backbone"},
            "MODEL.FREQFUSION.ENABLED has no effect with MODEL.BACKBONE.NAME"
            " build_resnet_fpn_backbone",
        ),
        ({"MODEL__WEIGHTS": "none/r18.pth"}, "MODEL.WEIGHTS names none/r18.pth, which does not ex"),
        (
            {"MODEL__WEIGHTS": "catalog://ImageNetPretrained/x"},
            "WEIGHTS: catalog://ImageNetPretrained/x cannot be fetched: KeyError ('x')",
        ),
        (
            {"DATASETS__TRAIN": ("synthetic_panoptic_train_seperated",)},
            "DATASETS.TRAIN names synthetic_panoptic_train_seperated, which is not registered; did"
            " you mean synthetic_panoptic_train_separated?",
        ),
        ({"DATASETS__TEST": ("zzz",)}, "DATASETS.DECLARED accepts YAML files of your own"),
        ({"DATASETS__TRAIN": ()}, "DATASETS.TRAIN names no data set to train on"),
        ({"MODEL__MASK_ON": False}, "PanopticFPN joins masks with the semantic labels"),
        ({"MODEL__DEVICE": "cuda:0"}, "but there is no GPU: set MODEL.DEVICE cpu"),
    ],
)
def test_one_problem_is_one_sentence(small_cfg, keys, sentence, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = problems(change(small_cfg, keys))
    assert lines[0] == "the configuration has a problem:"
    assert len(lines) == 2, lines
    assert lines[1].startswith("1. ")
    assert sentence in lines[1]


MODULATED = {
    "MODEL__META_ARCHITECTURE": "SFMSegmentor",
    "MODEL__SFM__ENABLED": True,
    "MODEL__SFM__META_ARCHITECTURE": "PanopticFPN",
    "MODEL__SFM__PSP_RATIO": 4,
    "MODEL__BACKBONE__NAME": "build_sfm_freqfusion_fpn_backbone",
}
SFM_HEAD = MODULATED | {
    "MODEL__SFM__META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL__SFM__DEMODULATE": "head",
    "MODEL__SFM__HEAD": "SemSegFPNHead",
    "MODEL__BACKBONE__NAME": "build_sfm_backbone",
    "MODEL__SEM_SEG_HEAD__NAME": "SFMSemSegHead",
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3"],
    "MODEL__FREQFUSION__ENABLED": False,
}
PLAIN_HEAD = {"MODEL__SEM_SEG_HEAD__NAME": "SemSegFPNHead"}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            MODULATED | {"MODEL__SFM__BACKBONE": "build_resnets_backbone"},
            "MODEL.SFM.BACKBONE names build_resnets_backbone, which is not registered; did you mean"
            " build_resnet_backbone",
        ),
        (
            SFM_HEAD | {"MODEL__SFM__HEAD": "SemSegFPNHaed"},
            "MODEL.SFM.HEAD names SemSegFPNHaed, which is not registered; did you mean"
            " SemSegFPNHead?",
        ),
        (SFM_HEAD | PLAIN_HEAD, 'MODEL.SFM.DEMODULATE "head" leaves maps modulated'),
        (
            {"MODEL__SFM__ENABLED": True},
            "MODEL.SFM.ENABLED has no effect with MODEL.BACKBONE.NAME"
            " build_resnet_freqfusion_fpn_backbone, which is not modulated",
        ),
        (
            SFM_HEAD | {"MODEL__FREQFUSION__ENABLED": True},
            "MODEL.FREQFUSION.ENABLED has no effect with MODEL.BACKBONE.NAME build_sfm_backbone",
        ),
        (
            MODULATED | {"MODEL__SFM__BACKBONE": "build_sfm_backbone"},
            "names the backbone that is modulated, so not build_sfm_backbone",
        ),
    ],
)
def test_checks_see_what_is_modulated(small_cfg, keys, sentence):
    found = check_model(change(small_cfg, keys))
    assert len(found) == 1, found
    assert sentence in found[0]


@pytest.mark.parametrize(
    "keys",
    [
        MODULATED,
        SFM_HEAD,
        SFM_HEAD | PLAIN_HEAD | {"MODEL__SFM__ENABLED": False},
        SFM_HEAD | PLAIN_HEAD | {"MODEL__SFM__DEMODULATE": "exit"},
        SFM_HEAD | {"MODEL__SFM__HEAD": "FreqFusionSemSegHead", "MODEL__FREQFUSION__ENABLED": True},
    ],
)
def test_sound_modulated_models_pass(small_cfg, keys):
    assert check_model(change(small_cfg, keys)) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({}, ""),
        ({"MODEL__FREQFUSION__ENABLED": True}, ""),
        (
            {"MODEL__MASK2FORMER__PIXEL_DECODER": "FreqFusionPixelDecoder"},
            'MODEL.SFM.DEMODULATE "head" leaves maps modulated',
        ),
        (
            {"MODEL__MASK2FORMER__IN_FEATURES": ["res2", "res3", "res4", "res6"]},
            "MODEL.MASK2FORMER.IN_FEATURES names res6",
        ),
    ],
)
def test_checks_see_mask2former(keys, sentence):
    found = check_model(sfm_cfg("Mask2Former", **keys))
    assert len(found) == bool(sentence), found
    assert sentence in "".join(found)


def test_all_problems_are_numbered(small_cfg):
    keys = {"MODEL__BACKBONE__NAME": "x", "DATASETS__TEST": ("y",), "SOLVER__STEPS": (2, 1)}
    first, *lines = problems(change(small_cfg, keys))
    assert first == "the configuration has 3 problems:"
    assert [line[:3] for line in lines] == ["1. ", "2. ", "3. "]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entry: entry.update(id=1), "Annotation ids in .* are not unique"),
        (lambda entry: entry.update(category_id=99), "category_id=99 but this id does not exist"),
    ],
)
def test_annotations_to_test_on_are_read_before_the_training(
    small_cfg, datasets, monkeypatch, damage, message
):
    """Otherwise they end it at its first evaluation."""
    file = datasets / "synthetic" / "annotations" / "instances_val.json"
    whole = file.read_text()
    content = json.loads(whole)
    damage(content["annotations"][-1])
    try:
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"of DATASETS.TEST cannot be evaluated: .*{message}"):
            preflight(small_cfg)
    finally:
        file.write_text(whole)
    assert preflight(small_cfg) is None


def test_missing_files_are_named_before_they_are_read(small_cfg, datasets):
    folder = datasets / "synthetic" / "panoptic_stuff_val"
    away = folder.rename(folder.with_name("away"))
    try:
        assert any(str(folder) in line for line in problems(small_cfg))
    finally:
        away.rename(folder)


def test_class_counts_are_those_of_every_data_set(small_cfg):
    lines = problems(change(small_cfg, {"MODEL__ROI_HEADS__NUM_CLASSES": 80}))
    assert len(lines) == 3
    for line, split in zip(lines[1:], ("train", "val"), strict=True):
        assert "MODEL.ROI_HEADS.NUM_CLASSES: is 80" in line
        assert f"synthetic_panoptic_{split}_separated has 7" in line


def test_evaluation_needs_no_data_to_train_on(small_cfg):
    assert preflight(change(small_cfg, {"DATASETS__TRAIN": ()}), eval_only=True) is None
    cfg = change(small_cfg, {"DATASETS__TEST": ()})
    assert "DATASETS.TEST names no data set to evaluate" in problems(cfg, eval_only=True)[1]


def test_resumed_run_needs_no_weights(small_cfg, tmp_path):
    cfg = change(small_cfg, {"MODEL__WEIGHTS": "gone.pth"})
    assert problems(cfg, resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000009.pth")
    assert problems(cfg, resume=True)
    (tmp_path / "run" / "model_0000009.pth").touch()
    assert preflight(cfg, resume=True) is None
    assert problems(cfg)


def test_processes_share_the_batch_and_the_gpus(small_cfg, monkeypatch):
    assert preflight(small_cfg, world_size=2) is None
    cfg = change(small_cfg, {"SOLVER__IMS_PER_BATCH": 3})
    assert "must be a multiple of the 2 processes: take 2 or 4" in problems(cfg, world_size=2)[1]
    assert preflight(cfg, world_size=2, eval_only=True) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = change(small_cfg, {"MODEL__DEVICE": "cuda:0", "SOLVER__IMS_PER_BATCH": 2})
    assert preflight(cfg) is None
    [_, line] = problems(cfg, world_size=2)
    assert "MODEL.DEVICE cuda:0 is one GPU for all 2 processes: set MODEL.DEVICE cuda" in line
    assert preflight(change(cfg, {"MODEL__DEVICE": "cuda"}), world_size=2) is None


def test_normalisation_over_several_processes_needs_gpus(small_cfg, monkeypatch):
    """torch's; Detectron2's own runs anywhere."""
    cfg = change(small_cfg, {"MODEL__RESNETS__NORM": "SyncBN", "MODEL__FPN__NORM": "naiveSyncBN"})
    assert preflight(cfg) is None
    assert preflight(cfg, world_size=2, eval_only=True) is None
    [_, line] = problems(cfg, world_size=2)
    assert line == "1. the NORM SyncBN needs GPUs in several processes: take naiveSyncBN or GN"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert preflight(change(cfg, {"MODEL__DEVICE": "cuda"}), world_size=2) is None


def test_switch_works_through_the_head_too(small_cfg):
    """A plain backbone under FreqFusion's head, and any backbone that others registered."""
    head = {
        "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
        "MODEL__BACKBONE__NAME": "build_resnet_backbone",
        "MODEL__SEM_SEG_HEAD__NAME": "FreqFusionSemSegHead",
        "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3"],
    }
    assert check_model(change(small_cfg, head)) == []
    assert "joining 64 and 32 channels at compress_ratio 500" in "".join(
        check_model(change(small_cfg, {"MODEL__FREQFUSION__COMPRESS_RATIO": 500}))
    )


def fusing_backbone(cfg, input_shape):
    return BACKBONE_REGISTRY.get("build_resnet_freqfusion_fpn_backbone")(cfg, input_shape)


def backbone_with_memory(cfg, input_shape):
    torch.ones(1).item()


@pytest.mark.parametrize("builder", [fusing_backbone, backbone_with_memory])
def test_backbones_of_others_may_use_the_switch_and_need_memory(small_cfg, builder):
    """Where a model cannot be built without memory, what is wrong is left to the run."""
    BACKBONE_REGISTRY.register(builder)
    try:
        assert check_model(change(small_cfg, {"MODEL__BACKBONE__NAME": builder.__name__})) == []
    finally:
        del BACKBONE_REGISTRY._obj_map[builder.__name__]
