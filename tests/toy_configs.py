"""Configurations small enough for tests."""

from freqfusion import get_freqfusion_cfg


def resnet18_cfg():
    """A ResNet-18 with random weights under a pyramid, FreqFusion on, on the CPU."""
    cfg = get_freqfusion_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_freqfusion_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    cfg.MODEL.FREQFUSION.ENABLED = True
    cfg.MODEL.FREQFUSION.COMPRESSED_CHANNELS = 8
    return cfg


def change(cfg, keys):
    """Set keys written with two underscores for a dot; returns the configuration."""
    for name, value in keys.items():
        cfg.merge_from_list([name.replace("__", "."), value])
    return cfg
