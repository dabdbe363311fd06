"""The configurations that come with the package, by name, as in Detectron2's ``model_zoo``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from freqfusion.config_names import get_config_file, list_configs

__all__ = ["get_config", "get_config_file", "list_configs"]


def get_config(name: str, overrides: Sequence[Any] = ()) -> Any:
    """Return a configuration as a ``CfgNode``, with ``KEY, VALUE`` pairs laid over it.

    Raises:
        ValueError: for a name, key or value that does not exist.
    """
    # Here, since the names alone need no Detectron2.
    from freqfusion.engine.setup import load_config

    return load_config(get_config_file(name), overrides)
