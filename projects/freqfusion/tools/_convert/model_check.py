"""Hold converted weights against the model that they are for."""

import importlib.util
import re
from collections.abc import Mapping

from freqfusion.tools._convert.rules import Settings, State, shorten

# A model sets these itself, so a file may do without them.
_SET_BY_THE_MODEL = re.escape("criterion.empty_weight")


def can_check() -> bool:
    """Whether models can be built here."""
    return importlib.util.find_spec("detectron2") is not None


def check_against_model(state: State, settings: Settings) -> None:
    """Compare names and shapes with a model of these settings, which takes no memory.

    Raises:
        ValueError: if weights are missing, left over or of another shape, or such a model cannot
            be built.
    """
    _compare(state, _shapes(settings), may_lack=_SET_BY_THE_MODEL)


def check_backbone(state: State, settings: Settings, *, prefix: str, new: str = "") -> None:
    """Compare names and shapes with a backbone alone, whose names begin with ``prefix`` here.

    Args:
        state: The weights.
        settings: Keys of the backbone.
        prefix: Beginning of all names in ``state``.
        new: Regular expression of the names, without the prefix, that need not be there.

    Raises:
        ValueError: as for ``check_against_model``.
    """
    shapes = _shapes(settings, backbone_only=True)
    expected = {prefix + name: shape for name, shape in shapes.items()}
    _compare(state, expected, may_lack=re.escape(prefix) + new if new else "")


def _compare(state: State, expected: Mapping[str, tuple[int, ...]], *, may_lack: str) -> None:
    missing = [name for name in expected if name not in state and not re.fullmatch(may_lack, name)]
    left = [name for name in state if name not in expected]
    other = [
        f"{name} has {tuple(value.shape)} in place of {expected[name]}"
        for name, value in state.items()
        if name in expected and tuple(value.shape) != expected[name]
    ]
    for kind, names in (("missing", missing), ("left over", left), ("of another shape", other)):
        if names:
            raise ValueError(
                f"{len(names)} weights are {kind} for the model that the others belong to: "
                f"{shorten(names)}"
            )


def _shapes(settings: Settings, *, backbone_only: bool = False) -> dict[str, tuple[int, ...]]:
    import torch
    from detectron2.modeling import build_backbone, build_model

    from freqfusion import get_freqfusion_cfg

    cfg = get_freqfusion_cfg()
    cfg.merge_from_list([part for item in settings.items() for part in item])
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            model = build_backbone(cfg) if backbone_only else build_model(cfg)
    except (AssertionError, LookupError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"no model can be built for these weights: {error}") from error
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
