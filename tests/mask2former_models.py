"""Whole Mask2Former models for tests: those of the reference data, and a small one of our own."""

import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from toy_configs import change, resnet18_cfg

from freqfusion import get_freqfusion_cfg


def recorded_model(case, num_points=16):
    """The model of a case of set D with its parameters, on the CPU."""
    ctor = case.ctor
    fusion = any("freqfusions" in name for name in case.group("param"))
    cfg = get_freqfusion_cfg()
    backbone, decoder, predictor = (ctor[n] for n in ("backbone", "pixel_decoder", "predictor"))
    change(
        cfg,
        {
            "MODEL__DEVICE": "cpu",
            "MODEL__META_ARCHITECTURE": "Mask2Former",
            "MODEL__BACKBONE__NAME": "build_resnet_backbone",
            "MODEL__BACKBONE__FREEZE_AT": 0,
            "MODEL__RESNETS__DEPTH": backbone["depth"],
            "MODEL__RESNETS__WIDTH_PER_GROUP": backbone["width_per_group"],
            "MODEL__RESNETS__RES2_OUT_CHANNELS": backbone["res2_out"],
            "MODEL__RESNETS__STEM_OUT_CHANNELS": backbone["stem_out"],
            "MODEL__RESNETS__STRIDE_IN_1X1": backbone["stride_in_1x1"],
            "MODEL__RESNETS__NORM": backbone["norm"],
            "MODEL__RESNETS__OUT_FEATURES": backbone["out_features"],
            "MODEL__SEM_SEG_HEAD__NAME": "Mask2FormerHead",
            "MODEL__SEM_SEG_HEAD__NUM_CLASSES": predictor["num_classes"],
            "MODEL__MASK2FORMER__NHEADS": decoder["nheads"],
            "MODEL__MASK2FORMER__ENCODER_FEEDFORWARD": decoder["dim_feedforward"],
            "MODEL__MASK2FORMER__ENCODER_LAYERS": decoder["enc_layers"],
            "MODEL__MASK2FORMER__CONV_DIM": decoder["conv_dim"],
            "MODEL__MASK2FORMER__MASK_DIM": decoder["mask_dim"],
            "MODEL__MASK2FORMER__NORM": decoder["norm"],
            "MODEL__MASK2FORMER__ENCODER_FEATURES": decoder["in_features"],
            "MODEL__MASK2FORMER__COMMON_STRIDE": decoder["common_stride"],
            "MODEL__MASK2FORMER__HIDDEN_DIM": predictor["hidden_dim"],
            "MODEL__MASK2FORMER__NUM_QUERIES": predictor["num_queries"],
            "MODEL__MASK2FORMER__DECODER_FEEDFORWARD": predictor["dim_feedforward"],
            "MODEL__MASK2FORMER__DECODER_LAYERS": predictor["dec_layers"],
            "MODEL__MASK2FORMER__SIZE_DIVISIBILITY": ctor["size_divisibility"],
            "MODEL__MASK2FORMER__TRAIN_NUM_POINTS": num_points,
            "MODEL__MASK2FORMER__TEST__OBJECT_MASK_THRESHOLD": ctor["object_mask_threshold"],
            "MODEL__MASK2FORMER__TEST__OVERLAP_THRESHOLD": ctor["overlap_threshold"],
            "MODEL__MASK2FORMER__TEST__SEMANTIC_ON": ctor["semantic_on"],
            "MODEL__MASK2FORMER__TEST__PANOPTIC_ON": ctor["panoptic_on"],
            "MODEL__MASK2FORMER__TEST__INSTANCE_ON": ctor["instance_on"],
            "MODEL__MASK2FORMER__TEST__INSTANCE_BOXES": "zeros",
            "MODEL__PIXEL_MEAN": ctor["pixel_mean"],
            "MODEL__PIXEL_STD": ctor["pixel_std"],
            "TEST__DETECTIONS_PER_IMAGE": ctor["test_topk_per_image"],
            "DATASETS__TRAIN": (things_registered(ctor["thing_contiguous_ids"]),),
        },
    )
    if fusion:
        cfg.MODEL.FREQFUSION.ENABLED = True
        cfg.MODEL.FREQFUSION.HAMMING_WINDOW = cfg.MODEL.FREQFUSION.FEATURE_RESAMPLE_NORM = False
        compressor = case.group("param")[
            "sem_seg_head.pixel_decoder.freqfusions.0.hr_channel_compressor.weight"
        ]
        cfg.MODEL.FREQFUSION.COMPRESSED_CHANNELS = len(compressor)
    model = build_model(cfg)
    report = model.load_state_dict(parameters(case), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= {"criterion.empty_weight"}
    return model


def parameters(case):
    """Parameters of a case, those of the file that it builds on included."""
    return dict(case.group("param"))


def small_cfg(**keys):
    """A ResNet-18 with a narrow Mask2Former, all outputs on, random weights, on the CPU."""
    small = {
        "MODEL__META_ARCHITECTURE": "Mask2Former",
        "MODEL__BACKBONE__NAME": "build_resnet_backbone",
        "MODEL__RESNETS__NORM": "BN",
        "MODEL__SEM_SEG_HEAD__NAME": "Mask2FormerHead",
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
        "MODEL__MASK2FORMER__CONV_DIM": 32,
        "MODEL__MASK2FORMER__MASK_DIM": 32,
        "MODEL__MASK2FORMER__HIDDEN_DIM": 32,
        "MODEL__MASK2FORMER__NHEADS": 4,
        "MODEL__MASK2FORMER__NUM_QUERIES": 10,
        "MODEL__MASK2FORMER__ENCODER_LAYERS": 1,
        "MODEL__MASK2FORMER__ENCODER_FEEDFORWARD": 64,
        "MODEL__MASK2FORMER__DECODER_LAYERS": 3,
        "MODEL__MASK2FORMER__DECODER_FEEDFORWARD": 64,
        "MODEL__MASK2FORMER__TRAIN_NUM_POINTS": 64,
        "MODEL__MASK2FORMER__TEST__PANOPTIC_ON": True,
        "MODEL__MASK2FORMER__TEST__INSTANCE_ON": True,
        "DATASETS__TRAIN": (things_registered([0, 1, 2]),),
    }
    return change(resnet18_cfg(), small | keys)


def things_registered(ids):
    """Name of metadata in which these contiguous classes are things."""
    name = "things_" + "_".join(map(str, ids))
    MetadataCatalog.get(name).set(
        thing_dataset_id_to_contiguous_id={100 + number: number for number in ids}
    )
    return name


def seeded_model(seed=0, **keys):
    """The small model with the same random weights each time."""
    torch.manual_seed(seed)
    return build_model(small_cfg(**keys))
