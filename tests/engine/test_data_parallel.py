"""Gradients of several processes: what must be there for them to be averaged."""

import pytest
import torch
from detectron2.engine import defaults
from detectron2.utils.events import EventStorage
from sfm_models import built, example, sfm_cfg
from torch import nn

from freqfusion.engine import training_step
from freqfusion.engine.training_step import data_parallel, unwrapped


def without_gradient(model, inputs):
    with EventStorage():
        losses = model.train()([inputs])
    sum(losses.values()).backward()
    return [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize(
    ("architecture", "keys"),
    [
        ("Mask2Former", {"MODEL__SFM__STRENGTH": 0.0}),
        ("PanopticFPN", {"MODEL__SFM__DETACH_GRID": True, "MODEL__SFM__EDGE_LOSS_WEIGHT": 0.0}),
    ],
    ids=str,
)
def test_every_parameter_of_sfm_gets_a_gradient(architecture, keys):
    model = built(sfm_cfg(architecture, **keys))
    assert without_gradient(model, example(architecture)) == []


@pytest.mark.parametrize(("key", "value"), [("STRENGTH", 0.0), ("DETACH_GRID", True)])
def test_attention_without_a_teacher_is_frozen(key, value):
    """No SFMSegmentor, hence no supervision: the attention keeps the values that it has."""
    cfg = sfm_cfg("SemanticSegmentor", **{f"MODEL__SFM__{key}": value})
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    model = built(cfg)
    attention = [p for n, p in model.named_parameters() if ".sfm." in n]
    assert attention
    assert not any(parameter.requires_grad for parameter in attention)
    assert without_gradient(model, example("SemanticSegmentor")) == []


def test_labels_that_are_all_ignored_leave_no_parameter_out():
    model = built(sfm_cfg("SemanticSegmentor"))
    inputs = example("SemanticSegmentor")
    inputs["sem_seg"] = torch.full_like(inputs["sem_seg"], 255)
    assert without_gradient(model, inputs) == []


@pytest.mark.parametrize("unused", [False, True])
def test_wrapper_takes_the_key(unused, semantic_cfg, monkeypatch):
    """On a CPU without device ids, with which torch refuses."""
    given = {}

    class Wrapper(nn.Module):
        def __init__(self, module, **options):
            super().__init__()
            self.module = module
            given.update(options)

    monkeypatch.setattr(training_step, "DistributedDataParallel", Wrapper)
    monkeypatch.setattr(defaults, "DistributedDataParallel", Wrapper)
    model = nn.Linear(1, 1)
    semantic_cfg.SOLVER.FIND_UNUSED_PARAMETERS = unused
    assert data_parallel(semantic_cfg, model) is model
    monkeypatch.setattr(defaults.comm, "get_world_size", lambda: 2)
    wrapped = data_parallel(semantic_cfg, model)
    assert given == {
        "device_ids": None,
        "broadcast_buffers": False,
        "find_unused_parameters": unused,
    }
    assert unwrapped(wrapped) is model
    assert unwrapped(model) is model
