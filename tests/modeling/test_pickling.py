"""Models that configurations build can be copied, pickled, and saved whole."""

import pytest
import sfm_backbones
import torch
from copies import WAYS, disturbed
from detectron2.structures import Instances
from mask2former_models import small_cfg
from segnext_models import segnext_cfg
from sfm_models import built, example, plain_cfg, semantic_cfg, sfm_cfg
from toy_configs import change


def backbone_cfg(kind):
    """A narrow Mask2Former on a backbone of this kind."""
    builder, small = sfm_backbones.KINDS[kind]
    return small_cfg(MODEL__BACKBONE__NAME=builder, **small)


def modulated_cfg(kind):
    """The same with modulation, brought back to the image by the pixel decoder."""
    builder, small = sfm_backbones.KINDS[kind]
    return sfm_cfg("Mask2Former", MODEL__SFM__BACKBONE=builder, **small)


def freqfusion_cfg(architecture):
    return change(plain_cfg(architecture), {"MODEL__FREQFUSION__ENABLED": True})


def concatenation_cfg():
    keys = {
        "MODEL__BACKBONE__NAME": "build_resnet_backbone",
        "MODEL__SEM_SEG_HEAD__NAME": "FreqFusionSemSegHead",
        "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"],
    }
    return change(freqfusion_cfg("SemanticSegmentor"), keys)


def segnext_with_freqfusion_cfg():
    return segnext_cfg(MODEL__FREQFUSION__ENABLED=True)


# What each model is built from.
MODELS = {
    "FreqFusion in PanopticFPN": (freqfusion_cfg, "PanopticFPN"),
    "FreqFusion in a concatenation": (concatenation_cfg,),
    "FreqFusion in SegNeXt": (segnext_with_freqfusion_cfg,),
    "SFM in PanopticFPN": (sfm_cfg, "PanopticFPN"),
    "SFM with FCN": (semantic_cfg, "FCNHead", ["res5"]),
    "SFM on convnext in Mask2Former": (modulated_cfg, "convnext"),
    "SFM on swin in Mask2Former": (modulated_cfg, "swin"),
    "internimage in Mask2Former": (backbone_cfg, "internimage"),
}


def numbers_of(model):
    """Everything that a model makes of an image, as tensors."""
    with torch.no_grad():
        (found,) = model.eval()([example("SemanticSegmentor")])
    found["panoptic_seg"] = found.get("panoptic_seg", [None])[0]
    instances = found.pop("instances", Instances((1, 1)))
    fields = {k: getattr(v, "tensor", v) for k, v in instances.get_fields().items()}
    return found | fields


@pytest.mark.parametrize("name", MODELS)
def test_copies_are_models_of_their_own(name):
    """The same numbers, also after the model that was copied has changed."""
    build, *arguments = MODELS[name]
    model = disturbed(built(build(*arguments)))
    expected = numbers_of(model)
    copies = [way(model) for way in WAYS]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for copied in copies:
        assert type(copied) is type(model)
        torch.testing.assert_close(numbers_of(copied), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("way", WAYS)
def test_copies_load_older_names(way):
    """The queries of Mask2Former, the table of Swin, and class weights, which are not loaded."""
    copied = way(built(backbone_cfg("swin")))
    state = {name: value.clone() for name, value in copied.state_dict().items()}
    weights = state["criterion.empty_weight"]
    queries = state.pop("sem_seg_head.predictor.query_feat.weight") + 1
    index = "backbone.layers.0.blocks.0.attn.relative_position_index"
    state |= {
        "criterion.empty_weight": torch.zeros_like(weights),
        "sem_seg_head.predictor.static_query.weight": queries,
        index: copied.get_buffer(index),
    }
    copied.load_state_dict(state)
    assert torch.equal(copied.sem_seg_head.predictor.query_feat.weight, queries)
    assert torch.equal(copied.criterion.empty_weight, weights)
