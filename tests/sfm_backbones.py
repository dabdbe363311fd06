"""Small backbones with and without modulation, for the tests of Spatial Frequency Modulation."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone
from sfm_displacements import attention_logits
from torch import nn
from toy_configs import change, resnet18_cfg

IMAGE = ShapeSpec(channels=3)
STAGES = ["res2", "res3", "res4", "res5"]
# The builder, and the keys that make its model small.
KINDS = {
    "resnet": ("build_resnet_backbone", {}),
    "timm_resnet": ("build_timm_backbone", {"MODEL__TIMM__NAME": "resnet18"}),
    "convnext": ("build_timm_backbone", {"MODEL__TIMM__NAME": "convnext_atto"}),
    "timm_swin": ("build_timm_backbone", {"MODEL__TIMM__NAME": "swin_tiny_patch4_window7_224"}),
    "swin": (
        "build_swin_backbone",
        {
            "MODEL__SWIN__EMBED_DIM": 16,
            "MODEL__SWIN__DEPTHS": [1, 1, 1, 1],
            "MODEL__SWIN__NUM_HEADS": [2, 2, 2, 2],
        },
    ),
    "internimage": (
        "build_internimage_backbone",
        {
            "MODEL__INTERNIMAGE__CHANNELS": 16,
            "MODEL__INTERNIMAGE__DEPTHS": [1, 1, 1, 1],
            "MODEL__INTERNIMAGE__GROUPS": [1, 2, 4, 8],
        },
    ),
    "mscan": (
        "build_mscan_backbone",
        {
            "MODEL__MSCAN__EMBED_DIMS": [16, 16, 32, 32],
            "MODEL__MSCAN__DEPTHS": [1, 1, 1, 1],
            "MODEL__MSCAN__MLP_RATIOS": [2.0, 2.0, 2.0, 2.0],
        },
    ),
}


def sfm_cfg(kind="resnet", builder="build_sfm_backbone", **keys):
    """The configuration of a modulated backbone of one of the kinds."""
    wrapped, small = KINDS[kind]
    cfg = resnet18_cfg()
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.SFM.ENABLED = True
    cfg.MODEL.SFM.BACKBONE = wrapped
    return change(cfg, small | keys)


def build_pair(kind="resnet", **keys):
    """The modulated backbone and the bare one with the same weights, in evaluation mode."""
    modulated = build_backbone(sfm_cfg(kind, **keys), IMAGE).eval()
    bare = build_backbone(sfm_cfg(kind, **keys, MODEL__SFM__ENABLED=False), IMAGE).eval()
    modulated.load_state_dict(bare.state_dict(), strict=False)
    return modulated, bare


def disturb(modulated, *, scale=0.5, seed=0):
    """Give the attention random projections, so that it moves samples."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in modulated.sfm.named_parameters():
        if "project" in name:
            with torch.no_grad():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return modulated


def relative_errors(found, expected):
    """Largest difference of each map over its largest value."""
    assert list(found) == list(expected)
    return {
        name: ((found[name] - value).abs().max() / value.abs().max()).item()
        for name, value in expected.items()
    }


class FixedAttention(nn.Module):
    """Logits that do not depend on the features."""

    def __init__(self, *, kind="smooth", seed=0):
        super().__init__()
        self.kind, self.seed = kind, seed

    def forward(self, features):
        size = tuple(features.shape[-2:])
        return attention_logits(self.kind, size, batch=len(features), seed=self.seed).float()


class Picks(Backbone):
    """Every fourth, eighth, ... pixel of the image: maps whose pixels have known places."""

    def __init__(self, *, channels=3):
        super().__init__()
        for stage in (2, 3, 4, 5):
            step = nn.Conv2d(channels, channels, 1, stride=2, bias=False)
            step.weight.data.copy_(torch.eye(channels)[..., None, None])
            self.add_module(f"step{stage}", step)
        self._out_features = list(STAGES)
        self._out_feature_strides = {f"res{stage}": 2**stage for stage in (2, 3, 4, 5)}
        self._out_feature_channels = {f"res{stage}": channels for stage in (2, 3, 4, 5)}

    def forward(self, images):
        maps, results = images[..., ::2, ::2], {}
        for stage in (2, 3, 4, 5):
            maps = getattr(self, f"step{stage}")(maps)
            results[f"res{stage}"] = maps
        return results
