"""``torch.compile`` takes backbones and heads whole: a graph break is an error with fullgraph."""

import pytest
import torch
from mask2former_models import small_cfg
from segnext_models import segnext_cfg
from sfm_models import built, semantic_cfg, sfm_cfg, shake_attention
from toy_configs import change, resnet18_cfg

SEMANTIC = {
    "MODEL__META_ARCHITECTURE": "SemanticSegmentor",
    "MODEL__SEM_SEG_HEAD__NUM_CLASSES": 5,
    "MODEL__SEM_SEG_HEAD__CONVS_DIM": 64,
    "MODEL__FREQFUSION__LOWPASS_KERNEL": 3,
}
CONCATENATION = {
    "MODEL__BACKBONE__NAME": "build_resnet_backbone",
    "MODEL__SEM_SEG_HEAD__NAME": "FreqFusionSemSegHead",
    "MODEL__SEM_SEG_HEAD__IN_FEATURES": ["res2", "res3", "res4", "res5"],
}
# What each model is built from; the parts that are ours are the backbone and the head.
MODELS = {
    "freqfusion": lambda: change(resnet18_cfg(), SEMANTIC),
    "concatenation": lambda: change(resnet18_cfg(), SEMANTIC | CONCATENATION),
    "segnext": segnext_cfg,
    "freqfusion in segnext": lambda: segnext_cfg(
        MODEL__FREQFUSION__ENABLED=True, MODEL__FREQFUSION__LOWPASS_KERNEL=3
    ),
    "mask2former": lambda: small_cfg(MODEL__FREQFUSION__LOWPASS_KERNEL=3),
    "sfm at the exit": lambda: sfm_cfg("SemanticSegmentor"),
    # One resampling of three, and few steps of its solver: each costs seconds of tracing.
    "sfm with FCN": lambda: semantic_cfg(
        "FCNHead", ["res5"], MODEL__SFM__POINTS="res2=res3.0", MODEL__SFM__SOLVER_ITERS=3
    ),
    "sfm with FPN": lambda: semantic_cfg("SemSegFPNHead", ["res2", "res3", "res4", "res5"]),
    "sfm with Mask2Former": lambda: sfm_cfg("Mask2Former"),
}


def result_of(model, images):
    found = model.sem_seg_head(model.backbone(images))
    return found["pred_masks"] if isinstance(found, dict) else found[0]


SLOW = ("concatenation", "mask2former", "sfm with FPN", "sfm at the exit", "sfm with Mask2Former")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in MODELS]
)
def test_no_break_in_backbone_and_head(name):
    """The same numbers, too; in one graph from the image to the logits."""
    model = shake_attention(built(MODELS[name]())).eval()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()
    with torch.no_grad():
        expected = result_of(model, images)
        compiled = torch.compile(result_of, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(model, images), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_modulated_backbone_may_be_broken_inside():
    """A stage that breaks the graph in the middle of a pass: steps are recorded all the same."""
    backbone = shake_attention(built(sfm_cfg("SemanticSegmentor"))).eval().backbone.bottom_up
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()
    with torch.no_grad():
        expected = backbone(images)
        backbone.res4.register_forward_hook(lambda *_: torch._dynamo.graph_break())
        found = torch.compile(backbone, backend="eager")(images)
    for name, maps in expected.items():
        torch.testing.assert_close(found[name], maps, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_gradients_of_a_modulated_backbone_compile():
    """Forward and backward in one graph each, with the gradients of the attention."""
    model = shake_attention(built(semantic_cfg("FCNHead", ["res5"]))).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()
    weight = model.backbone.sfm["res2"].attention.project.weight
    (expected,) = torch.autograd.grad(result_of(model, images).square().mean(), weight)
    compiled = torch.compile(result_of, backend="aot_eager", fullgraph=True)
    (found,) = torch.autograd.grad(compiled(model, images).square().mean(), weight)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, atol=1e-3 * expected.abs().max().item(), rtol=1e-2)
