"""A run that cannot work is stopped by sentences before anything is built."""

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY
from sfm_models import sfm_cfg
from toy_configs import change

from freqfusion.engine import preflight
from freqfusion.engine.model_check import check_model


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
        (
            {"MODEL__BACKBONE__NAME": "build_resnet_freqfusion_backbone"},
            "did you mean build_resnet_freqfusion_fpn_backbone",
        ),
        ({"MODEL__ROI_HEADS__NAME": "RoiHeads"}, "MODEL.ROI_HEADS.NAME names RoiHeads"),
        ({"MODEL__ROI_BOX_HEAD__NAME": ""}, "MODEL.ROI_BOX_HEAD.NAME is empty; there are FastRCNN"),
        ({"MODEL__ROI_MASK_HEAD__NAME": "x"}, "MODEL.ROI_MASK_HEAD.NAME names x, which is not"),
        ({"MODEL__RPN__HEAD_NAME": "x"}, "registered; there are StandardRPNHead"),
        ({"MODEL__PROPOSAL_GENERATOR__NAME": "x"}, "MODEL.PROPOSAL_GENERATOR.NAME names x"),
        ({"MODEL__ANCHOR_GENERATOR__NAME": "x"}, "MODEL.ANCHOR_GENERATOR.NAME names x"),
        (
            {"MODEL__SEM_SEG_HEAD__NAME": "FreqfusionSemSegHead"},
            "did you mean FreqFusionSemSegHead?",
        ),
        (
            {"MODEL__SEM_SEG_HEAD__IN_FEATURES": ["p2", "p7"]},
            "MODEL.SEM_SEG_HEAD.IN_FEATURES names p7, but build_resnet_freqfusion_fpn_backbone"
            " makes p2, p3, p4, p5, p6",
        ),
        ({"MODEL__ROI_HEADS__IN_FEATURES": ["res4"]}, "MODEL.ROI_HEADS.IN_FEATURES names res4"),
        ({"MODEL__ROI_HEADS__IN_FEATURES": []}, "MODEL.ROI_HEADS.IN_FEATURES is empty"),
        (
            {"MODEL__RPN__IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"]},
            "MODEL.RPN.IN_FEATURES names p7",
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
        (
            {
                "MODEL__BACKBONE__NAME": "build_timm_freqfusion_fpn_backbone",
                "MODEL__TIMM__NAME": "resnet1",
            },
            "the model cannot be built: timm has no model 'resnet1'",
        ),
        ({"MODEL__WEIGHTS": "none/r18.pth"}, "MODEL.WEIGHTS names none/r18.pth, which does not ex"),
        ({"MODEL__WEIGHTS": "file:///a.pth"}, "WEIGHTS: file:///a.pth is no address of weights"),
        ({"MODEL__WEIGHTS": "s3://a/b.pth"}, "for a file on this machine write its path"),
        (
            {"MODEL__WEIGHTS": "catalog://ImageNetPretrained/x"},
            "WEIGHTS: catalog://ImageNetPretrained/x cannot be fetched: KeyError ('x')",
        ),
        ({"MODEL__WEIGHTS": "catalog://x"}, "model not present in the catalog: x"),
        (
            {"DATASETS__TRAIN": ("synthetic_panoptic_train_seperated",)},
            "DATASETS.TRAIN names synthetic_panoptic_train_seperated, which is not registered; did"
            " you mean synthetic_panoptic_train_separated?",
        ),
        ({"DATASETS__TEST": ("zzz",)}, "DATASETS.DECLARED takes the YAML files of your own data"),
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


SFM = {
    "MODEL__META_ARCHITECTURE": "SFMSegmentor",
    "MODEL__SFM__ENABLED": True,
    "MODEL__SFM__META_ARCHITECTURE": "PanopticFPN",
    "MODEL__SFM__PSP_RATIO": 4,
    "MODEL__BACKBONE__NAME": "build_sfm_freqfusion_fpn_backbone",
}
SFM_HEAD = SFM | {
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
            SFM | {"MODEL__SFM__META_ARCHITECTURE": "PanopticFNP"},
            "MODEL.SFM.META_ARCHITECTURE names PanopticFNP, which is not registered; did you mean"
            " PanopticFPN?",
        ),
        (
            SFM | {"MODEL__SFM__META_ARCHITECTURE": "SFMSegmentor"},
            "MODEL.SFM.META_ARCHITECTURE names SFMSegmentor, which is not registered",
        ),
        (
            SFM | {"MODEL__SFM__BACKBONE": "build_resnets_backbone"},
            "MODEL.SFM.BACKBONE names build_resnets_backbone, which is not registered; did you mean"
            " build_resnet_backbone",
        ),
        (SFM | {"MODEL__ROI_HEADS__NAME": "RoiHeads"}, "MODEL.ROI_HEADS.NAME names RoiHeads"),
        (
            SFM | {"MODEL__ROI_HEADS__IN_FEATURES": ["res4"]},
            "MODEL.ROI_HEADS.IN_FEATURES names res4, but build_sfm_freqfusion_fpn_backbone makes",
        ),
        (
            SFM_HEAD | {"MODEL__SFM__HEAD": "SemSegFPNHaed"},
            "MODEL.SFM.HEAD names SemSegFPNHaed, which is not registered; did you mean"
            " SemSegFPNHead?",
        ),
        (SFM_HEAD | PLAIN_HEAD, 'MODEL.SFM.DEMODULATE "head" leaves maps modulated'),
        (
            SFM_HEAD | PLAIN_HEAD | {"MODEL__META_ARCHITECTURE": "SemanticSegmentor"},
            'MODEL.SFM.DEMODULATE "head" leaves maps modulated',
        ),
        (
            {"MODEL__SFM__ENABLED": True},
            "MODEL.SFM.ENABLED has no effect with MODEL.BACKBONE.NAME"
            " build_resnet_freqfusion_fpn_backbone, which is not modulated",
        ),
        (
            SFM | {"MODEL__BACKBONE__NAME": "build_resnet_freqfusion_fpn_backbone"},
            "MODEL.SFM.ENABLED has no effect",
        ),
        (
            SFM_HEAD | {"MODEL__FREQFUSION__ENABLED": True},
            "MODEL.FREQFUSION.ENABLED has no effect with MODEL.BACKBONE.NAME build_sfm_backbone",
        ),
        (
            SFM | {"MODEL__SFM__BACKBONE": "build_sfm_backbone"},
            "names the backbone that is modulated, so not build_sfm_backbone",
        ),
        (SFM | {"MODEL__SFM__DEMODULATE": "head"}, "a pyramid adds maps of several stages"),
    ],
)
def test_checks_see_what_is_modulated(small_cfg, keys, sentence):
    found = check_model(change(small_cfg, keys))
    assert len(found) == 1, found
    assert sentence in found[0]


@pytest.mark.parametrize(
    "keys",
    [
        SFM,
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
            {"MODEL__MASK2FORMER__PIXEL_DECODER": "SFMPixelDecodr"},
            "MODEL.MASK2FORMER.PIXEL_DECODER names SFMPixelDecodr, which is not registered; did you"
            " mean SFMPixelDecoder",
        ),
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
    lines = problems(change(small_cfg, keys))
    assert lines[0] == "the configuration has 3 problems:"
    assert [line[:3] for line in lines[1:]] == ["1. ", "2. ", "3. "]


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
    assert line == (
        "1. MODEL.RESNETS.NORM SyncBN needs GPUs where there are several processes: take"
        " naiveSyncBN, which does the same on CPUs, or GN"
    )
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
    assert "joining 128 and 64 channels at compress_ratio 500" in "".join(
        check_model(change(small_cfg, {"MODEL__FREQFUSION__COMPRESS_RATIO": 500}))
    )


def test_backbones_of_others_may_use_the_switch(small_cfg):
    def other_backbone(cfg, input_shape):
        return BACKBONE_REGISTRY.get("build_resnet_freqfusion_fpn_backbone")(cfg, input_shape)

    BACKBONE_REGISTRY.register(other_backbone)
    try:
        assert check_model(change(small_cfg, {"MODEL__BACKBONE__NAME": "other_backbone"})) == []
    finally:
        del BACKBONE_REGISTRY._obj_map["other_backbone"]


def test_model_that_cannot_be_built_without_memory_is_left_to_the_run(small_cfg):
    def needs_memory(cfg, input_shape):
        torch.ones(1).item()

    BACKBONE_REGISTRY.register(needs_memory)
    try:
        assert check_model(change(small_cfg, {"MODEL__BACKBONE__NAME": "needs_memory"})) == []
    finally:
        del BACKBONE_REGISTRY._obj_map["needs_memory"]
