"""Which parameters learn how fast and decay how much."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as detectron2s
from torch import nn
from toy_configs import change, resnet18_cfg

from freqfusion.engine.solver import build_lr_scheduler, build_optimizer


class Model(nn.Module):
    """A backbone of one convolution and a normalisation, a head with an embedding."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 1, 1), nn.GroupNorm(1, 1))
        self.head = nn.Linear(1, 1)
        self.query = nn.Embedding(2, 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(1))


def settings(model, optimizer):
    """Name -> (learning rate, decay)."""
    of = {p: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    return {name: of[parameter] for name, parameter in model.named_parameters()}


def toy(**keys):
    return change(resnet18_cfg(), {"SOLVER__BASE_LR": 0.1, "SOLVER__WEIGHT_DECAY": 0.01, **keys})


@pytest.mark.parametrize("kind", ["SGD", "ADAMW"])
def test_groups(kind):
    model = Model()
    cfg = toy(
        SOLVER__OPTIMIZER=kind, SOLVER__BACKBONE_MULTIPLIER=0.1, SOLVER__WEIGHT_DECAY_NORM=0.002
    )
    cfg.SOLVER.WEIGHT_DECAY_EMBED = 0.003
    found = settings(model, build_optimizer(cfg, model))
    expected = {
        "backbone.0.weight": (0.01, 0.01),
        "backbone.0.bias": (0.01, 0.01),
        "backbone.1.weight": (0.01, 0.002),
        "backbone.1.bias": (0.01, 0.002),
        "head.weight": (0.1, 0.01),
        "head.bias": (0.1, 0.01),
        "query.weight": (0.1, 0.003),
        "relative_position_bias_table": (0.1, 0.003),
    }
    assert found == {name: pytest.approx(value) for name, value in expected.items()}


@pytest.mark.parametrize("sfm", [False, True])
def test_bottom_up_network_and_sfms_attention_have_factors(sfm):
    cfg = toy(
        SOLVER__BACKBONE_MULTIPLIER=0.5,
        MODEL__META_ARCHITECTURE="SemanticSegmentor",
        MODEL__SFM__ENABLED=sfm,
        MODEL__SFM__LR_MULT=3.0,
    )
    if sfm:
        cfg.MODEL.BACKBONE.NAME = "build_sfm_freqfusion_fpn_backbone"
    model = build_model(cfg)
    found = settings(model, build_optimizer(cfg, model))
    attention = {name for name in found if name.startswith("backbone.bottom_up.sfm.")}
    assert bool(attention) == sfm
    for name, (rate, _) in found.items():
        slow = 0.05 if name.startswith("backbone.bottom_up.") else 0.1
        assert rate == pytest.approx(0.3 if name in attention else slow), name


def test_sgd_is_detectron2s():
    """Same groups and the same step as Detectron2's own optimizer."""
    cfg = toy(MODEL__META_ARCHITECTURE="SemanticSegmentor")
    models = [build_model(cfg) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, build in zip(models, (build_optimizer, detectron2s), strict=True):
        optimizer = build(cfg, model)
        sum(p.square().sum() for p in model.parameters() if p.requires_grad).backward()
        optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="one of SGD, ADAMW; got 'adam'"):
        build_optimizer(toy(SOLVER__OPTIMIZER="adam"), Model())


@pytest.mark.parametrize(("kind", "norm"), [("full_model", 1.0), ("norm", 2**0.5)])
def test_clipping(kind, norm):
    """Two parameters with gradients of norm 3 and 4: together 5, or one each."""
    cfg = toy(SOLVER__MOMENTUM=0.0, SOLVER__WEIGHT_DECAY=0.0, SOLVER__BASE_LR=1.0)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE, cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = kind, 1.0
    model = nn.Module()
    model.a, model.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(cfg, model)
    (3 * model.a + 4 * model.b).sum().backward()
    optimizer.step()
    step = torch.cat([model.a, model.b]).norm().item()
    assert step == pytest.approx(norm, rel=1e-4)


def test_polynomial_schedule():
    """Warm-up over 2 of 10 steps from a tenth, then (1 - t)**0.9 towards a hundredth."""
    cfg = toy(SOLVER__LR_SCHEDULER_NAME="WarmupPolyLR", SOLVER__MAX_ITER=10)
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 2, 0.1
    cfg.SOLVER.BASE_LR_END, cfg.SOLVER.STEPS = 0.001, ()
    model = Model()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    decay = [0.001 + 0.099 * (1 - n / 10) ** 0.9 for n in range(10)]
    assert rates[2:] == pytest.approx(decay[2:])
    assert rates[0] == pytest.approx(0.01)
    assert rates[0] < rates[1] < rates[2]


def test_other_schedules_are_detectron2s():
    cfg = toy(SOLVER__STEPS=(5,), SOLVER__MAX_ITER=10)
    assert build_lr_scheduler(cfg, build_optimizer(cfg, Model())).last_epoch == 0
