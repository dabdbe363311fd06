"""A configuration of SegNeXt small enough for tests."""

from toy_configs import change

from freqfusion import get_freqfusion_cfg

SEGNEXT = {
    "MODEL__DEVICE": "cpu",
    "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL__BACKBONE__NAME": "build_mscan_backbone",
    "MODEL__SEM_SEG_HEAD__NAME": "LightHamHead",
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL__FREQFUSION__COMPRESS_RATIO": 2,
}
SMALL = {
    "MODEL__MSCAN__EMBED_DIMS": [8, 16, 32, 32],
    "MODEL__MSCAN__DEPTHS": [1, 1, 1, 1],
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 32,
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
    "MODEL__LIGHT_HAM__RANK": 4,
}


def segnext_cfg(**keys):
    """SegNeXt with a narrow backbone and head, FreqFusion off."""
    return change(get_freqfusion_cfg(), SEGNEXT | SMALL | keys)
