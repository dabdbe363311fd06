"""A Panoptic FPN, a few generated images, and the folder of a run."""

import pytest
from rehearsed import registered_at
from toy_configs import change, resnet18_cfg

from freqfusion.data.synthetic import write_coco


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Generated images registered as ``synthetic_*``; the folder of all data sets."""
    root = tmp_path_factory.mktemp("datasets")
    write_coco(root / "synthetic", num_train=4, num_val=3, size=(64, 80), progress=False, workers=1)
    with pytest.MonkeyPatch.context() as patch, registered_at(root, patch):
        yield root


@pytest.fixture
def small_cfg(datasets, tmp_path):
    """Trains in a second or two; writes to the ``run`` folder."""
    return change(
        resnet18_cfg(),
        {
            "OUTPUT_DIR": str(tmp_path / "run"),
            "SEED": 1,
            "MODEL__META_ARCHITECTURE": "PanopticFPN",
            "MODEL__MASK_ON": True,
            # Narrow, since runs write and read their weights again and again.
            "MODEL__RESNETS__DEPTH": 50,
            "MODEL__RESNETS__STEM_OUT_CHANNELS": 8,
            "MODEL__RESNETS__WIDTH_PER_GROUP": 8,
            "MODEL__RESNETS__RES2_OUT_CHANNELS": 32,
            "MODEL__RESNETS__NORM": "BN",
            "MODEL__ANCHOR_GENERATOR__SIZES": [[8], [16], [32], [64], [128]],
            "MODEL__RPN__IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "MODEL__RPN__POST_NMS_TOPK_TRAIN": 50,
            "MODEL__RPN__POST_NMS_TOPK_TEST": 20,
            "MODEL__ROI_HEADS__NAME": "StandardROIHeads",
            "MODEL__ROI_HEADS__IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "MODEL__ROI_HEADS__NUM_CLASSES": 7,
            "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 16,
            "MODEL__ROI_BOX_HEAD__NAME": "FastRCNNConvFCHead",
            "MODEL__ROI_BOX_HEAD__NUM_FC": 1,
            "MODEL__ROI_BOX_HEAD__FC_DIM": 32,
            "MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION": 7,
            "MODEL__ROI_MASK_HEAD__CONV_DIM": 32,
            "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 7,
            "MODEL__SEM_SEG_HEAD__CONVS_DIM": 32,
            "DATASETS__TRAIN": ("synthetic_panoptic_train_separated",),
            "DATASETS__TEST": ("synthetic_panoptic_val_separated",),
            "DATALOADER__NUM_WORKERS": 0,
            "INPUT__MIN_SIZE_TRAIN": (64, 72),
            "INPUT__MAX_SIZE_TRAIN": 96,
            "INPUT__MIN_SIZE_TEST": 64,
            "INPUT__MAX_SIZE_TEST": 80,
            "SOLVER__IMS_PER_BATCH": 2,
            "SOLVER__MAX_ITER": 2,
            "SOLVER__STEPS": (),
        },
    )


@pytest.fixture
def semantic_cfg(small_cfg):
    """The same with semantic labels only, which takes half the time."""
    return change(
        small_cfg,
        {
            "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
            "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 13,
            "DATASETS__TRAIN": ("synthetic_semantic_train",),
            "DATASETS__TEST": ("synthetic_semantic_val",),
        },
    )
