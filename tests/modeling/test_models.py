"""Whole Detectron2 models: with the switch off, ours are Detectron2's to the bit."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from toy_configs import resnet18_cfg

MODELS = {
    "faster-rcnn": {"META_ARCHITECTURE": "GeneralizedRCNN"},
    "mask-rcnn": {"META_ARCHITECTURE": "GeneralizedRCNN", "MASK_ON": True},
    "panoptic-fpn": {"META_ARCHITECTURE": "PanopticFPN", "MASK_ON": True},
    "semantic-fpn": {"META_ARCHITECTURE": "SemanticSegmentor"},
}


def config(model, builder, enabled):
    cfg = resnet18_cfg()
    for key, value in MODELS[model].items():
        cfg.MODEL[key] = value
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 50
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 64
    cfg.MODEL.FREQFUSION.ENABLED = enabled
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return cfg


def build(model, builder="build_resnet_freqfusion_fpn_backbone", *, enabled):
    torch.manual_seed(0)
    return build_model(config(model, builder, enabled))


def example(height, width):
    """One image with a box-shaped object and labels."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(1, height, width, dtype=torch.bool)
    masks[:, : max(height // 2, 1), : max(width // 2, 1)] = True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes([[0.0, 0.0, max(width // 2, 1), max(height // 2, 1)]])
    instances.gt_classes = torch.tensor([1])
    instances.gt_masks = BitMasks(masks)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
        "instances": instances,
        "sem_seg": torch.randint(0, 4, (height, width), generator=generator),
        "height": height,
        "width": width,
    }


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
    theirs = build(name, "build_resnet_fpn_backbone", enabled=False)
    state, reference = ours.state_dict(), theirs.state_dict()
    assert list(state) == list(reference)
    assert all(torch.equal(state[key], reference[key]) for key in state)
    inputs = example(64, 96)
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
    [(64, 96), (43, 65), (33, 95), (1, 1), pytest.param((427, 641), marks=pytest.mark.slow)],
    ids=str,
)
@pytest.mark.parametrize("name", MODELS)
def test_switched_on_it_trains_and_predicts_at_any_size(name, size):
    model = build(name, enabled=True)
    inputs = example(*size)
    total = sum(losses(model, inputs).values())
    assert total.isfinite()
    total.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if "fpn_fusion" in n}
    assert gradients
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    outputs = predictions(model, inputs)
    if "sem_seg" in outputs:
        assert outputs["sem_seg"].shape[-2:] == size
