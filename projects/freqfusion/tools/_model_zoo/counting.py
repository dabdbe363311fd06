"""What is counted of a configuration: parameters, FLOPs, and what training keeps for gradients.

Models without proposals run on the device "meta", which has shapes but no memory and no work: the
counters see the same operators. The heads of a detector depend on its proposals, so it has to run;
random weights throw boxes out of the image, so that boxes stay where their anchors are, and none is
left out for its score or its overlap with others: as many proposals and objects are counted as it
may have, whatever its weights are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from freqfusion.analysis import count_flops, count_parameters
from freqfusion.tools._analyze.inputs import random_image
from freqfusion.tools._analyze.measure import training_memory
from freqfusion.tools._model import build_model, read_config

Size = tuple[int, int]

# Convolutions and linear layers of Detectron2 that predict how far a box is moved.
_MOVES_BOXES = ("anchor_deltas", "bbox_pred")


def count(file: Path, size: Size) -> dict[str, Any]:
    """Parameters, and FLOPs of inference on an image of ``size`` (height, width), random weights.

    The numbers are those of ``python -m freqfusion.tools.analyze``, of a detector with as many
    boxes as it may have.
    """
    cfg = configuration(file)
    model = _without_memory(cfg) if _needs_no_numbers(cfg) else seeded_model(cfg)
    parameters = count_parameters(model)[""]
    image = on_device_of(model, random_image(cfg, size))
    return {
        "parameters": parameters.total,
        "trainable": parameters.trainable,
        "flops": count_flops(model, [image]).total,
    }


def count_kept(file: Path, size: Size) -> int:
    """Bytes that a training step in float32 on one image of ``size`` keeps for gradients."""
    cfg = configuration(file)
    learns_alone = _needs_no_numbers(cfg) and not cfg.MODEL.MASK_ON  # Mask2Former matches
    model = _without_memory(cfg) if learns_alone else seeded_model(cfg)
    image = on_device_of(model, random_image(cfg, size))
    return training_memory(cfg, model, image).total


def configuration(file: Path) -> Any:
    """What a file says, on the CPU, without weights to download."""
    cfg = read_config(str(file), "")
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.DEVICE = "cpu"
    # Below zero, since scores of random weights are often zero to the last digit.
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = -1.0
    # Nothing overlaps more than wholly.
    cfg.MODEL.RPN.NMS_THRESH = cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0
    return cfg


def seeded_model(cfg: Any) -> Any:
    """A model with random weights that move no boxes, the same each time, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(cfg, needs_weights=False)
    for name, part in model.named_modules():
        if name.endswith(_MOVES_BOXES):
            torch.nn.init.zeros_(part.weight)
    return model


def on_device_of(model: Any, image: dict[str, Any]) -> dict[str, Any]:
    """The image where the model's parameters are."""
    return image | {"image": image["image"].to(next(model.parameters()).device)}


def _needs_no_numbers(cfg: Any) -> bool:
    """Whether what is computed follows from shapes: there are no proposals."""
    names = (cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SFM.META_ARCHITECTURE)
    architecture = names[1] if names[0] == "SFMSegmentor" else names[0]
    return architecture in ("SemanticSegmentor", "Mask2Former")


def _without_memory(cfg: Any) -> Any:
    """The model on "meta"; Mask2Former without the choice of masks, which multiplies nothing."""
    from freqfusion.modeling.mask2former import Mask2Former

    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg, needs_weights=False)
    for part in model.modules():
        if isinstance(part, Mask2Former):
            part.panoptic_on = part.instance_on = False
    return model
