"""Whole models with FreqFusion or Spatial Frequency Modulation beside the same ones without."""

from functools import partial
from typing import Any

import torch

from freqfusion.tools._benchmark.oracle import checkout
from freqfusion.tools._benchmark.suite import Call, Case, Size

# Model: the configuration without and with, below configs/synthetic.
_FAMILIES = {
    "semantic FPN with FreqFusion": (
        "semantic-segmentation/semantic_fpn_r18",
        "semantic-segmentation/freqfusion_semantic_fpn_r18",
    ),
    "semantic FPN with SFM": (
        "semantic-segmentation/semantic_fpn_r18",
        "semantic-segmentation/sfm_semantic_fpn_r18",
    ),
    "Mask R-CNN with FreqFusion": (
        "instance-segmentation/mask_rcnn_r18",
        "instance-segmentation/freqfusion_mask_rcnn_r18",
    ),
    "panoptic FPN with FreqFusion": (
        "panoptic-segmentation/panoptic_fpn_r18",
        "panoptic-segmentation/freqfusion_panoptic_fpn_r18",
    ),
    "Mask2Former with FreqFusion": (
        "panoptic-segmentation/mask2former_r18",
        "panoptic-segmentation/freqfusion_mask2former_r18",
    ),
}


def model(size: Size, *, ours: bool, family: str, training: bool) -> Call:
    """A narrow ResNet-18 model with random weights on one image: inference, or a training step.

    A step is the losses, their gradients and an update by AdamW.
    """
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from freqfusion.data.registration import register_datasets
    from freqfusion.engine.setup import load_config

    register_datasets()
    path = checkout() / "configs" / "synthetic" / f"{_FAMILIES[family][ours]}.yaml"
    torch.manual_seed(0)
    network = build_model(load_config(str(path), ["MODEL.DEVICE", "cpu"])).train(training)
    inputs = [_image(*size.image)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0)

    def step() -> tuple[torch.Tensor, ...]:
        optimizer.zero_grad()
        with EventStorage():
            loss = sum(network(inputs).values())
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    def infer() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            network(inputs)
        return ()

    return step if training else infer


MODEL_CASES: dict[str, Case] = {
    f"{family}, {'training step' if training else 'inference'}": partial(
        model, family=family, training=training
    )
    for family in _FAMILIES
    for training in (False, True)
}


def _image(height: int, width: int) -> dict[str, Any]:
    """An image of noise with four boxes as instances, and blocks of six classes as labels."""
    from detectron2.structures import BitMasks, Boxes, Instances

    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    masks = torch.zeros(4, height, width, dtype=torch.bool)
    instances = Instances((height, width))
    corners = [(at // 2 * height // 2, at % 2 * width // 2) for at in range(4)]
    for mask, (top, left) in zip(masks, corners, strict=True):
        mask[top : top + height // 3, left : left + width // 3] = True
    boxes = [[x, y, x + width // 3, y + height // 3] for y, x in corners]
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.gt_classes = torch.arange(4)
    instances.gt_masks = BitMasks(masks)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8),
        "height": height,
        "width": width,
        "instances": instances,
        "sem_seg": (rows // 16 + columns // 16) % 6,
    }
