"""What a configuration names inside of what Spatial Frequency Modulation puts around it."""

from __future__ import annotations

from typing import Any

SUPERVISING = "SFMSegmentor"


def inner_architecture(cfg: Any) -> str:
    """The name of the model itself, which ``SFMSegmentor`` finds in ``MODEL.SFM``."""
    return str(_node(cfg)["META_ARCHITECTURE"])


def architecture_key(cfg: Any) -> str:
    """The key of ``inner_architecture`` below ``MODEL``."""
    return "SFM.META_ARCHITECTURE" if is_supervised(cfg) else "META_ARCHITECTURE"


def is_supervised(cfg: Any) -> bool:
    """Whether the model is one whose attention is supervised."""
    return bool(cfg.MODEL.META_ARCHITECTURE == SUPERVISING)


def modulates(builder: str) -> bool:
    """Whether a backbone of this name looks at ``MODEL.SFM``."""
    return "_sfm_" in builder


def inner_backbone(cfg: Any) -> str:
    """The name of the backbone itself; with a pyramid in it where that is not built by SFM."""
    name = str(cfg.MODEL.BACKBONE.NAME)
    return str(cfg.MODEL.SFM.BACKBONE) if modulates(name) else name


def _node(cfg: Any) -> Any:
    return cfg.MODEL.SFM if is_supervised(cfg) else cfg.MODEL
