"""Each rule between keys, by a configuration that is sound but for one thing."""

import pytest
from detectron2.config import CfgNode
from toy_configs import change, resnet18_cfg

from freqfusion.config_check import check_config, config_warnings, did_you_mean, nearest
from freqfusion.config_check.wrapped import architecture_key, inner_architecture, inner_backbone

PANOPTIC = {
    "MODEL__META_ARCHITECTURE": "PanopticFPN",
    "MODEL__MASK_ON": True,
    "MODEL__WEIGHTS": "r18.pth",
    "MODEL__RPN__IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64], [128]],
    "DATASETS__TEST": ("val",),
    "TEST__EVAL_PERIOD": 100,
}
FUSION = "MODEL.FREQFUSION"


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
    assert config_warnings(sound()) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"DATALOADER__BAD_SAMPLES": "ignore"}, "must be one of refuse, skip; got 'ignore'"),
        ({"DATALOADER__MAX_BAD_SAMPLES": -0.1}, "DATALOADER.MAX_BAD_SAMPLES must be a share"),
        ({"DATALOADER__MAX_BAD_SAMPLES": 2.5}, "a whole number of images such as 10.0; got 2.5"),
        ({"SOLVER__EMA__DECAY": 1.0}, "SOLVER.EMA.DECAY must be above 0 and below 1; got 1.0"),
        ({"SOLVER__REFERENCE_BATCH": -1}, "REFERENCE_BATCH must be 0 (off) or more; got -1"),
        (
            {"SOLVER__REFERENCE_BATCH": 16, "SOLVER__REFERENCE_WORLD_SIZE": 8},
            "both scale the learning rate: set one of them to 0",
        ),
        ({"SOLVER__NON_FINITE": "ignore"}, "NON_FINITE must be one of stop, skip; got 'ignore'"),
        ({"SOLVER__NON_FINITE_PATIENCE": 0}, "NON_FINITE_PATIENCE must be at least 1; got 0"),
        (
            {"SOLVER__ACCUMULATE_STEPS": 17},
            "the 2 images that each process has of a batch, so it must be from 1 to 2; got 17",
        ),
        ({"MODEL__RESNETS__DEPTH": 20}, "DEPTH must be one of 18, 34, 50, 101, 152; got 20"),
        (
            {"MODEL__RESNETS__RES2_OUT_CHANNELS": 256},
            "MODEL.RESNETS.DEPTH 18 needs MODEL.RESNETS.RES2_OUT_CHANNELS 64; got 256",
        ),
        ({"MODEL__RESNETS__RES5_DILATION": 2}, "needs MODEL.RESNETS.RES5_DILATION 1; got 2"),
        ({"MODEL__RESNETS__RES5_DILATION": 3, "MODEL__RESNETS__DEPTH": 50}, "1 or 2; got 3"),
        (
            {"MODEL__RESNETS__DEFORM_ON_PER_STAGE": [False, False, False, True]},
            "DEPTH 18 has no deformable convolutions: set MODEL.RESNETS.DEFORM_ON_PER_STAGE",
        ),
        ({"MODEL__FPN__IN_FEATURES": []}, "MODEL.FPN.IN_FEATURES is empty"),
        (
            {"MODEL__FPN__IN_FEATURES": ["res3", "res2"]},
            "from fine to coarse: write res2, res3",
        ),
        (
            {"MODEL__RESNETS__OUT_FEATURES": ["res3", "res5"]},
            "needs res2, res4, which MODEL.RESNETS.OUT_FEATURES does not name",
        ),
        (
            {
                "MODEL__BACKBONE__NAME": "build_timm_freqfusion_fpn_backbone",
                "MODEL__TIMM__OUT_FEATURES": ["res2", "res3", "res4"],
            },
            "needs res5, which MODEL.TIMM.OUT_FEATURES does not name: add it to res2, res3, res4",
        ),
        (
            {
                "MODEL__BACKBONE__NAME": "build_retinanet_resnet_fpn_backbone",
                "MODEL__FPN__IN_FEATURES": ["res3"],
                "MODEL__RESNETS__OUT_FEATURES": ["res3"],
            },
            "needs res5",
        ),
        (
            {"MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16]]},
            r"SIZES has 2 lists, but MODEL.RPN.IN_FEATURES names 5 levels (p2, p3, p4, p5, p6)",
        ),
        (
            {"MODEL__META_ARCHITECTURE": "RetinaNet", "MODEL__ANCHOR_GENERATOR__SIZES": [[8], [9]]},
            "has 2 lists, but MODEL.RETINANET.IN_FEATURES names 5 levels",
        ),
        ({"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [0.5, 1.0]}, "must be a list of lists"),
        (
            {"MODEL__FREQFUSION__LOWPASS_KERNEL": 4},
            f"{FUSION}.LOWPASS_KERNEL must be a positive od",
        ),
        ({"MODEL__FREQFUSION__HIGHPASS_KERNEL": 0}, f"{FUSION}.HIGHPASS_KERNEL must be a positive"),
        (
            {"MODEL__FREQFUSION__ENCODER_KERNEL": 2},
            f"{FUSION}.ENCODER_KERNEL must be a positive od",
        ),
        ({"MODEL__FREQFUSION__PADDING_MODE": "same"}, "must be one of ('zeros', 'reflect')"),
        ({"MODEL__FREQFUSION__UPSAMPLE_MODE": "area"}, f"{FUSION}.UPSAMPLE_MODE must be one of"),
        ({"MODEL__FREQFUSION__SAMPLER_FEATURES": "x"}, f"{FUSION}.SAMPLER_FEATURES must be one of"),
        ({"MODEL__FREQFUSION__INIT": "x"}, f"{FUSION}.INIT must be one of"),
        ({"MODEL__FREQFUSION__ENCODER_DILATION": 0}, f"{FUSION}.ENCODER_DILATION must be positive"),
        (
            {"MODEL__FREQFUSION__COMPRESSED_CHANNELS": 25},  # 25 // 8 groups do not divide 25
            "COMPRESSED_CHANNELS must be a multiple of 8, got 25; or switch",
        ),
        ({"MODEL__FREQFUSION__COMPRESSED_CHANNELS": 4}, "must be a multiple of 8, got 4"),
        ({"MODEL__FREQFUSION__ALIGN_CORNERS": True}, "UPSAMPLE_MODE bilinear or bicubic"),
        (
            {"MODEL__FREQFUSION__FEATURE_RESAMPLE_GROUP": 3},
            "FEATURE_RESAMPLE_GROUP 3 must divide MODEL.FPN.OUT_CHANNELS 32",
        ),
        (
            {
                "MODEL__FREQFUSION__FUSE_TYPE": "dysample",
                "MODEL__FREQFUSION__FEATURE_RESAMPLE_GROUP": 0,
            },
            "FEATURE_RESAMPLE_GROUP must be positive, got 0",
        ),
        (
            {"MODEL__FREQFUSION__FUSE_TYPE": "carafe", "MODEL__FREQFUSION__LOWPASS_KERNEL": 4},
            "LOWPASS_KERNEL must be a positive odd",
        ),
        ({"MODEL__MASK_ON": False}, "set MODEL.MASK_ON True"),
        ({"MODEL__PIXEL_STD": [1.0]}, "MODEL.PIXEL_MEAN has 3 numbers and MODEL.PIXEL_STD 1"),
        ({"MODEL__PIXEL_STD": [1.0, 0.0, 1.0]}, "MODEL.PIXEL_STD must be positive"),
        (
            {"MODEL__SEM_SEG_HEAD__IGNORE_VALUE": 0},
            "IGNORE_VALUE 0 is one of the 54 classes: take a label from 54 to 255",
        ),
        ({"INPUT__MASK_FORMAT": "rle"}, "INPUT.MASK_FORMAT must be one of polygon, bitmask"),
        ({"INPUT__RANDOM_FLIP": "both"}, "INPUT.RANDOM_FLIP must be one of"),
        ({"INPUT__MIN_SIZE_TRAIN": (640, 1400)}, "INPUT.MIN_SIZE_TRAIN 640, 1400 must not exceed"),
        ({"INPUT__MIN_SIZE_TRAIN": ()}, "INPUT.MIN_SIZE_TRAIN is empty"),
        ({"INPUT__MIN_SIZE_TEST": 1400}, "must not exceed INPUT.MAX_SIZE_TEST 1333"),
        ({"INPUT__MIN_SIZE_TRAIN_SAMPLING": "range"}, "needs two numbers in INPUT.MIN_SIZE_TRAIN"),
        ({"INPUT__CROP__TYPE": "random"}, "INPUT.CROP.TYPE must be one of relative"),
        (
            {"INPUT__CROP__ENABLED": True, "INPUT__CROP__SIZE": [512, 512]},
            "must be fractions of the image, above 0 and at most 1",
        ),
        (
            {"INPUT__CROP__ENABLED": True, "INPUT__CROP__TYPE": "absolute"},
            "INPUT.CROP.SIZE 0.9, 0.9 must be whole pixels",
        ),
        ({"TEST__SAMPLE_PREDICTIONS": -1}, "must be 0 (none) or more; got -1"),
        ({"TEST__BEST_CHECKPOINT": "PQ"}, "such as panoptic_seg/PQ, segm/AP or sem_seg/mIoU"),
        (
            {"TEST__BEST_CHECKPOINT": "segm/AP", "DATASETS__TEST": ()},
            "TEST.BEST_CHECKPOINT needs a data set to evaluate",
        ),
        (
            {"TEST__VALIDATION_LOSS__ENABLED": True, "TEST__VALIDATION_LOSS__MAX_IMAGES": 0},
            "MAX_IMAGES must be at least 1; got 0",
        ),
        (
            {"TEST__VALIDATION_LOSS__ENABLED": True, "DATASETS__TEST": ()},
            "TEST.VALIDATION_LOSS.ENABLED needs a data set",
        ),
        ({"SOLVER__AMP__ENABLED": True}, "MODEL.DEVICE is cpu: set SOLVER.AMP.DTYPE bfloat16"),
        ({"SOLVER__AMP__DTYPE": "half"}, "must be one of float16, bfloat16; got 'half'"),
        ({"SOLVER__STEPS": (300, 200)}, "SOLVER.STEPS must grow: write 200, 300"),
        ({"SOLVER__MAX_ITER": 0, "SOLVER__STEPS": ()}, "SOLVER.MAX_ITER must be at least 1"),
        ({"SOLVER__BASE_LR": float("nan")}, "SOLVER.BASE_LR must be a finite number from 0 on"),
        ({"SOLVER__BASE_LR": float("inf")}, "finite number from 0 on; got inf"),
        ({"SOLVER__BASE_LR": -0.1}, "finite number from 0 on; got -0.1"),
        ({"SOLVER__WEIGHT_DECAY": -1.0}, "SOLVER.WEIGHT_DECAY must be a finite number"),
        ({"SOLVER__CHECKPOINT_PERIOD": 0}, "SOLVER.CHECKPOINT_PERIOD must be at least 1"),
        ({"SOLVER__IMS_PER_BATCH": 0}, "SOLVER.IMS_PER_BATCH must be at least 1"),
        ({"SOLVER__IMS_PER_BATCH": 15}, "a multiple of the 8 processes: take 8 or 16"),
        ({"SOLVER__IMS_PER_BATCH": 4}, "a multiple of the 8 processes: take 8"),
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


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"MODEL__RESNETS__DEPTH": 20}, "DEPTH must be one of 18, 34, 50, 101, 152; got 20"),
        (
            {"MODEL__RESNETS__OUT_FEATURES": ["res3", "res5"]},
            "the pyramid build_sfm_freqfusion_fpn_backbone needs res2, res4, which"
            " MODEL.RESNETS.OUT_FEATURES does not name",
        ),
        (
            {
                "MODEL__SFM__BACKBONE": "build_timm_backbone",
                "MODEL__TIMM__OUT_FEATURES": ["res2", "res3", "res4"],
            },
            "needs res5, which MODEL.TIMM.OUT_FEATURES does not name",
        ),
        (
            {
                "MODEL__SFM__BACKBONE": "build_swin_backbone",
                "MODEL__SWIN__OUT_FEATURES": ["res2", "res3", "res5"],
            },
            "needs res4, which MODEL.SWIN.OUT_FEATURES does not name",
        ),
        ({"MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16]]}, "MODEL.RPN.IN_FEATURES names 5 levels"),
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
    assert len(config_warnings(sound(**SFM | {"MODEL__WEIGHTS": ""}))) == 1


def test_inner_names():
    cfg = sound(**SFM | {"MODEL__SFM__BACKBONE": "build_swin_backbone"})
    assert (inner_architecture(cfg), architecture_key(cfg)) == (
        "PanopticFPN",
        "SFM.META_ARCHITECTURE",
    )
    assert inner_backbone(cfg) == "build_swin_backbone"
    cfg = sound()
    assert (inner_architecture(cfg), architecture_key(cfg)) == ("PanopticFPN", "META_ARCHITECTURE")
    assert inner_backbone(cfg) == "build_resnet_freqfusion_fpn_backbone"


@pytest.mark.parametrize(
    "keys",
    [
        {"MODEL__FREQFUSION__ENABLED": False, "MODEL__FREQFUSION__LOWPASS_KERNEL": 4},
        {"MODEL__FREQFUSION__FUSE_TYPE": "nearest", "MODEL__FREQFUSION__LOWPASS_KERNEL": 4},
        {"MODEL__FREQFUSION__FUSE_TYPE": "carafe", "MODEL__FREQFUSION__HIGHPASS_KERNEL": 4},
        {
            "MODEL__FREQFUSION__FEATURE_RESAMPLE": False,
            "MODEL__FREQFUSION__COMPRESSED_CHANNELS": 25,
        },
        {"INPUT__CROP__SIZE": [512, 512]},
        {"MODEL__META_ARCHITECTURE": "SemanticSegmentor", "MODEL__MASK_ON": False},
        {"INPUT__SCALE_JITTER__ENABLED": True, "INPUT__MIN_SIZE_TRAIN": ()},
        {"MODEL__SEM_SEG_HEAD__IGNORE_VALUE": -1},
        {"MODEL__ANCHOR_GENERATOR__SIZES": [[8, 16]]},
    ],
)
def test_what_is_not_used_may_be_anything(keys):
    assert check_config(sound(**keys), world_size=8) == []


def test_all_that_is_wrong_is_told():
    cfg = sound(MODEL__MASK_ON=False, SOLVER__STEPS=(2, 1), MODEL__FREQFUSION__PADDING_MODE="x")
    assert len(check_config(cfg)) == 3


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
        ({"SOLVER__STEPS": (50000,)}, "SOLVER.STEPS 50000 come after the last iteration"),
        ({"SOLVER__WARMUP_ITERS": 50000}, "the learning rate will never be SOLVER.BASE_LR"),
        (
            {
                "INPUT__CROP__ENABLED": True,
                "INPUT__CROP__TYPE": "absolute",
                "INPUT__CROP__SIZE": [512, 2048],
            },
            "INPUT.CROP.SIZE 512, 2048 is larger than any image of training",
        ),
        (
            {"TEST__BEST_CHECKPOINT": "segm/AP", "TEST__EVAL_PERIOD": 0},
            "TEST.EVAL_PERIOD 0 evaluates at the end only",
        ),
    ],
)
def test_one_sentence_warns(keys, sentence):
    cfg = sound(**keys)
    assert check_config(cfg) == []
    warnings = config_warnings(cfg)
    assert len(warnings) == 1, warnings
    assert sentence in warnings[0]


def test_nearest_names_come_first_and_strangers_never():
    known = ["MODEL.FREQFUSION.FUSE_TYPE", "MODEL.FPN.FUSE_TYPE", "SOLVER.BASE_LR"]
    assert nearest("MODEL.FREQFUSION.FUSE_TYP", known) == ["MODEL.FREQFUSION.FUSE_TYPE"]
    assert set(nearest("MODEL.FUSE_TYPE", known)) == set(known[:2])
    assert nearest("solver.base_lr", known) == ["SOLVER.BASE_LR"]
    assert nearest("OPTIMIZER", known) == []
    assert nearest("anything", []) == []
    assert did_you_mean("SOLVER.BASELR", known) == "; did you mean SOLVER.BASE_LR?"
    assert did_you_mean("OPTIMIZER", known) == ""
