"""Small models with Spatial Frequency Modulation, their plain counterparts, and inputs."""

from itertools import pairwise

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from mask2former_models import small_cfg
from toy_configs import change, resnet18_cfg

from freqfusion.layers.sfm import Mapping, MappingStack
from freqfusion.modeling.sfm import ModulatedMaps

CLASSES = 5
ARCHITECTURES = ("SemanticSegmentor", "GeneralizedRCNN", "PanopticFPN", "Mask2Former")
_RCNN = {
    "MODEL__MASK_ON": True,
    "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [128], [256]],
    "MODEL__RPN__IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL__RPN__PRE_NMS_TOPK_TRAIN": 50,
    "MODEL__RPN__POST_NMS_TOPK_TRAIN": 20,
    "MODEL__RPN__PRE_NMS_TOPK_TEST": 50,
    "MODEL__RPN__POST_NMS_TOPK_TEST": 20,
    "MODEL__ROI_HEADS__NAME": "StandardROIHeads",
    "MODEL__ROI_HEADS__IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL__ROI_HEADS__NUM_CLASSES": 3,
    "MODEL__ROI_BOX_HEAD__NAME": "FastRCNNConvFCHead",
    "MODEL__ROI_BOX_HEAD__NUM_FC": 1,
    "MODEL__ROI_BOX_HEAD__FC_DIM": 32,
    "MODEL__ROI_BOX_HEAD__POOLER_RESOLUTION": 7,
    "MODEL__ROI_MASK_HEAD__NAME": "MaskRCNNConvUpsampleHead",
    "MODEL__ROI_MASK_HEAD__NUM_CONV": 1,
    "MODEL__ROI_MASK_HEAD__CONV_DIM": 16,
    "MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 14,
    "INPUT__MASK_FORMAT": "bitmask",
}
_RETINANET = {
    "MODEL__BACKBONE__NAME": "build_retinanet_resnet_freqfusion_fpn_backbone",
    "MODEL__FPN__IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL__ANCHOR_GENERATOR__SIZES": [[16], [32], [64], [128], [256]],
    "MODEL__RETINANET__NUM_CLASSES": 3,
    "MODEL__RETINANET__NUM_CONVS": 1,
    "MODEL__RETINANET__IOU_THRESHOLDS": [0.4, 0.5],
}


def plain_cfg(architecture):
    """A ResNet-18 in one of Detectron2's models or in Mask2Former, without any modulation."""
    if architecture == "Mask2Former":
        return small_cfg(MODEL__FREQFUSION__ENABLED=False)
    keys = {
        "MODEL__META_ARCHITECTURE": architecture,
        "MODEL__FREQFUSION__ENABLED": False,
        "MODEL__SEM_SEG_HEAD__NUM_CLASSES": CLASSES,
        "MODEL__SEM_SEG_HEAD__CONVS_DIM": 64,
    }
    further = {"RetinaNet": _RETINANET, "GeneralizedRCNN": _RCNN, "PanopticFPN": _RCNN}
    return change(resnet18_cfg(), keys | further.get(architecture, {}))


def sfm_cfg(architecture, **keys):
    """The same with modulation, and with supervision of its attention."""
    mask2former = architecture == "Mask2Former"
    builder = "build_sfm_backbone" if mask2former else "build_sfm_freqfusion_fpn_backbone"
    switched = {
        "MODEL__META_ARCHITECTURE": "SFMSegmentor",
        "MODEL__BACKBONE__NAME": builder,
        "MODEL__SFM__ENABLED": True,
        "MODEL__SFM__META_ARCHITECTURE": architecture,
        "MODEL__SFM__PSP_RATIO": 4,
    }
    if mask2former:
        switched["MODEL__MASK2FORMER__PIXEL_DECODER"] = "SFMPixelDecoder"
        switched["MODEL__SFM__DEMODULATE"] = "head"
    return change(plain_cfg(architecture), switched | keys)


def semantic_cfg(head, features, **keys):
    """A modulated ResNet-18 under ``SFMSemSegHead`` with a head inside."""
    return sfm_cfg(
        "SemanticSegmentor",
        **{
            "MODEL__BACKBONE__NAME": "build_sfm_backbone",
            "MODEL__SFM__DEMODULATE": "head",
            "MODEL__SFM__HEAD": head,
            "MODEL__SEM_SEG_HEAD__NAME": "SFMSemSegHead",
            "MODEL__SEM_SEG_HEAD__IN_FEATURES": features,
        }
        | keys,
    )


def built(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def example(architecture, height=64, width=96, seed=1):
    """One image with a box-shaped object and labels in blocks of eight pixels."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, CLASSES, (-(-height // 8), -(-width // 8)), generator=generator)
    labels = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)[:height, :width]
    image = torch.randint(0, 256, (3, height, width), generator=generator).to(torch.uint8)
    inputs = {"image": image, "height": height, "width": width}
    if architecture not in ("GeneralizedRCNN", "RetinaNet"):
        inputs["sem_seg"] = labels.contiguous()
    if architecture in ("GeneralizedRCNN", "RetinaNet", "PanopticFPN"):
        inputs["instances"] = box_instances(height, width)
    return inputs


def box_instances(height, width, count=1):
    instances = Instances((height, width))
    instances.gt_boxes = Boxes([[0.0, 0.0, width / 2, height / 2]] * count)
    instances.gt_classes = torch.ones(count, dtype=torch.long)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    masks[:, : height // 2, : width // 2] = True
    instances.gt_masks = BitMasks(masks)
    return instances


def shake_attention(model, size=0.3, seed=3):
    """Give the attention of a model something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".sfm." in f".{name}" and "project" in name:
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model


def chain(sizes, amplitude=0.0, phase=0.5, seed=2):
    """A stack of stages of stride 2 between maps of these sizes, moved at random and smoothly."""
    generator = torch.Generator().manual_seed(seed)
    stack = MappingStack()
    for (height, width), out_size in pairwise(sizes):
        rough = amplitude * torch.randn(1, 2, 4, 4, generator=generator)
        displacement = torch.nn.functional.interpolate(
            rough, size=(height, width), mode="bicubic", align_corners=True
        )
        stack.append(Mapping(displacement, False, 2, phase, out_size))
    return stack


NAMES = ["res2", "res3", "res4", "res5"]
SHAPES = {
    name: ShapeSpec(channels=8 * 2**level, stride=4 * 2**level) for level, name in enumerate(NAMES)
}


def modulated_maps(height=64, width=96, amplitude=0.0, phase=0.0):
    """Random maps of an image, with the stages between it and each."""
    torch.manual_seed(0)
    sizes = [(-(-height // shape.stride), -(-width // shape.stride)) for shape in SHAPES.values()]
    stack = chain(sizes, amplitude, phase)
    features = {
        name: torch.randn(1, SHAPES[name].channels, *size)
        for name, size in zip(NAMES, sizes, strict=True)
    }
    stacks = {name: MappingStack(stack[:level]) for level, name in enumerate(NAMES)}
    return ModulatedMaps(features, stacks)
