"""A dumped step, computed again."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

import freqfusion.modeling  # noqa: F401 - registers what a configuration can name
from freqfusion.config import get_freqfusion_cfg
from freqfusion.engine.health.dump import Dump, read_dump
from freqfusion.engine.health.examination import Finding, examine
from freqfusion.files import parse_yaml


def replay(path: str, *, device: str | None = None) -> tuple[Dump, Finding]:
    """Build the model of a dump, give it its weights, and examine the step.

    Args:
        path: Of the dump.
        device: Instead of that of the run, which is the CPU where there is no GPU.

    Raises:
        ValueError: if the file is no dump, or its configuration is not of this version.
    """
    from freqfusion.engine.setup import fit_device

    dump = read_dump(path)
    cfg = get_freqfusion_cfg()
    try:
        cfg.merge_from_other_cfg(CfgNode(parse_yaml(dump.config, path)))
    except (KeyError, ValueError) as error:
        raise ValueError(f"the configuration in {path} is not of this version: {error}") from error
    cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
    fit_device(cfg)
    cfg.MODEL.TIMM.PRETRAINED = False
    model = build_model(cfg).train()
    model.load_state_dict(dump.weights)
    kind = torch.device(cfg.MODEL.DEVICE).type

    def autocast() -> Any:
        if dump.precision == "float32":
            return nullcontext()
        return torch.autocast(kind, getattr(torch, dump.precision))

    return dump, examine(model, dump.parts, dump.randomness, autocast)
