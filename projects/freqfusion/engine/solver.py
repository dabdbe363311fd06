"""Optimizers and learning rates beside Detectron2's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler, build
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

OPTIMIZERS = ("SGD", "ADAMW")
POLYNOMIAL = "WarmupPolyLR"

# Position tables of windowed models are no weights of a map, so they do not decay.
_POSITIONS = ("relative_position_bias_table", "absolute_pos_embed", "pos_embed")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD as Detectron2 builds it, or AdamW; the backbone may learn slower than the rest.

    ``SOLVER.BACKBONE_MULTIPLIER`` is a factor of the learning rate of the bottom-up network:
    ``backbone.bottom_up`` under a pyramid, ``backbone`` elsewhere; ``MODEL.SFM.LR_MULT`` is that of
    the attention that SFM adds to it. Weights of normalizations,
    embeddings and position tables decay by ``SOLVER.WEIGHT_DECAY_NORM`` and
    ``SOLVER.WEIGHT_DECAY_EMBED``.
    """
    node = cfg.SOLVER
    if node.OPTIMIZER not in OPTIMIZERS:
        raise ValueError(
            f"SOLVER.OPTIMIZER must be one of {', '.join(OPTIMIZERS)}; got {node.OPTIMIZER!r}"
        )
    groups = _parameter_groups(cfg, model)
    if node.OPTIMIZER == "ADAMW":
        optimizer: Any = torch.optim.AdamW(groups, node.BASE_LR, weight_decay=node.WEIGHT_DECAY)
    else:
        optimizer = torch.optim.SGD(
            groups,
            node.BASE_LR,
            momentum=node.MOMENTUM,
            nesterov=node.NESTEROV,
            weight_decay=node.WEIGHT_DECAY,
            foreach=True,
        )
    return _clipping_whole_model(cfg, optimizer)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
    """Detectron2's schedulers, and ``WarmupPolyLR``: (1 - t)**POLY_LR_POWER down to BASE_LR_END."""
    node = cfg.SOLVER
    if node.LR_SCHEDULER_NAME != POLYNOMIAL:
        return build.build_lr_scheduler(cfg, optimizer)
    end = node.BASE_LR_END / node.BASE_LR
    decay = PolynomialDecayParamScheduler(1 - end, node.POLY_LR_POWER)
    schedule = WarmupParamScheduler(
        lambda where: end + decay(where),
        node.WARMUP_FACTOR,
        min(node.WARMUP_ITERS / node.MAX_ITER, 1.0),
        node.WARMUP_METHOD,
        node.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier=schedule, max_iter=node.MAX_ITER)


def with_scaled_rate(cfg: CfgNode) -> CfgNode:
    """Return a configuration whose learning rate is in proportion to the batch, if requested.

    ``BASE_LR`` and ``BASE_LR_END``, meant for ``SOLVER.REFERENCE_BATCH`` images, are multiplied by
    ``IMS_PER_BATCH / REFERENCE_BATCH``; the number of iterations stays. Applied twice it changes
    nothing more.
    """
    reference, batch = cfg.SOLVER.REFERENCE_BATCH, cfg.SOLVER.IMS_PER_BATCH
    if not reference or reference == batch:
        return cfg
    scaled = cfg.clone()
    scaled.defrost()
    for name in ("BASE_LR", "BASE_LR_END"):
        scaled.SOLVER[name] = float(cfg.SOLVER[name]) * batch / reference
    scaled.SOLVER.REFERENCE_BATCH = batch
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def _parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict[str, Any]]:
    node = cfg.SOLVER
    groups = build.get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
        lr_factor_func=_learning_factor(cfg, model),
        overrides={name: {"weight_decay": node.WEIGHT_DECAY_EMBED} for name in _POSITIONS},
    )
    embeddings = {
        parameter
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    return [part for group in groups for part in _split(group, embeddings, node.WEIGHT_DECAY_EMBED)]


def _learning_factor(cfg: CfgNode, model: nn.Module) -> Callable[[str], float]:
    """Return the factor of each parameter by its name; what SFM adds is new, unlike the rest."""
    backbone = getattr(model, "backbone", None)
    below = "backbone.bottom_up." if hasattr(backbone, "bottom_up") else "backbone."

    def factor(name: str) -> float:
        if not name.startswith(below):
            return 1.0
        if name.startswith(f"{below}sfm."):
            return float(cfg.MODEL.SFM.LR_MULT)
        return float(cfg.SOLVER.BACKBONE_MULTIPLIER)

    return factor


def _split(
    group: dict[str, Any], apart: set[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Return the group without some parameters, and a group of those with another decay."""
    rest = [parameter for parameter in group["params"] if parameter not in apart]
    chosen = [parameter for parameter in group["params"] if parameter in apart]
    parts = [group | {"params": rest}, group | {"params": chosen, "weight_decay": weight_decay}]
    return [part for part in parts if part["params"]]


def _clipping_whole_model(cfg: CfgNode, optimizer: Any) -> torch.optim.Optimizer:
    """Detectron2 clips each parameter alone; "full_model" clips the norm of all gradients."""
    node = cfg.SOLVER.CLIP_GRADIENTS
    if not node.ENABLED or node.CLIP_TYPE != "full_model":
        clipping: torch.optim.Optimizer = build.maybe_add_gradient_clipping(cfg, optimizer)
        return clipping

    def clip(*_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, node.CLIP_VALUE)

    optimizer.register_step_pre_hook(clip)
    whole: torch.optim.Optimizer = optimizer
    return whole
