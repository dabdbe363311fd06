"""Whole Detectron2 models: with the switch off, ours are Detectron2's to the bit."""

import pytest
import torch
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from sfm_models import built, example, plain_cfg
from toy_configs import change

from freqfusion.modeling import with_memory_format

# The architecture, and whether it has masks.
MODELS = {
    "faster-rcnn": ("GeneralizedRCNN", False),
    "mask-rcnn": ("GeneralizedRCNN", True),
    "retinanet": ("RetinaNet", False),
    "panoptic-fpn": ("PanopticFPN", True),
    "semantic-fpn": ("SemanticSegmentor", False),
}


def build(name, *, enabled, detectron2=False):
    """Our model, or that with Detectron2's own builder of the backbone."""
    architecture, masks = MODELS[name]
    keys = {
        "MODEL__FREQFUSION__ENABLED": enabled,
        "MODEL__MASK_ON": masks,
        "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0,
        "MODEL__RETINANET__SCORE_THRESH_TEST": 0.0,
    }
    cfg = change(plain_cfg(architecture), keys)
    if detectron2:
        cfg.MODEL.BACKBONE.NAME = cfg.MODEL.BACKBONE.NAME.replace("freqfusion_", "")
    return built(cfg)


def losses(model, inputs):
    torch.manual_seed(0)  # proposals are sampled
    with EventStorage():
        return model.train()([inputs])


def predictions(model, inputs):
    with torch.no_grad():
        return model.eval()([inputs])[0]


@pytest.mark.parametrize("name", MODELS)
def test_switched_off_it_is_detectron2s_model(name):
    ours = build(name, enabled=False)
    theirs = build(name, enabled=False, detectron2=True)
    state, reference = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(reference)
    assert all(torch.equal(state[key], reference[key]) for key in state)
    inputs = example(MODELS[name][0])
    expected, actual = predictions(theirs, inputs), predictions(ours, inputs)
    assert set(actual) == set(expected)
    if "sem_seg" in actual:
        assert torch.equal(actual["sem_seg"], expected["sem_seg"])
    if "instances" in actual:
        for field, value in expected["instances"].get_fields().items():
            found = actual["instances"].get(field)
            tensors = (value.tensor, found.tensor) if isinstance(value, Boxes) else (value, found)
            assert torch.equal(*tensors), field
    expected, actual = losses(theirs, inputs), losses(ours, inputs)
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[key], expected[key]) for key in actual)


@pytest.mark.parametrize(
    "size",
    [(43, 65), (1, 1), pytest.param((427, 641), marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize("name", MODELS)
def test_switched_on_it_trains_and_predicts_at_any_size(name, size):
    model = build(name, enabled=True)
    inputs = example(MODELS[name][0], *size)
    total = sum(losses(model, inputs).values())
    assert total.isfinite()
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if "fpn_fusion" in n}
    assert gradients
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    outputs = predictions(model, inputs)
    if "sem_seg" in outputs:
        assert outputs["sem_seg"].shape[-2:] == size


def test_channels_last_changes_no_number():
    """Losses, gradients and maps to 1e-4; every map of the pyramid has the format."""
    found = []
    for last in (False, True):
        model = build("semantic-fpn", enabled=True)
        cfg = change(plain_cfg("SemanticSegmentor"), {"MODEL__CHANNELS_LAST": last})
        model = with_memory_format(model, cfg)
        total = sum(losses(model, example("SemanticSegmentor")).values())
        total.backward()
        with torch.no_grad():
            maps = model.eval().backbone(torch.linspace(-1, 1, 3 * 64 * 96).view(1, 3, 64, 96))
        layout = torch.channels_last if last else torch.contiguous_format
        assert all(one.is_contiguous(memory_format=layout) for one in maps.values())
        found.append([total.detach(), *maps.values(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
