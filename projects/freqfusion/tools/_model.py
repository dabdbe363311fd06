"""The configuration that a tool's command line names, for a model that looks at images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqfusion.tools._visualize.predictor import check_weights


def read_model_config(
    config_file: str | None, weights: str | None, overrides: Sequence[str], *, needs_weights: bool
) -> Any:
    """The configuration, on a device that is there; registers all data sets.

    Args:
        config_file: YAML file; without one, the defaults.
        weights: Take the place of ``MODEL.WEIGHTS``.
        overrides: ``KEY VALUE`` pairs.
        needs_weights: Whether there must be weights.

    Raises:
        ValueError: for what the user can mend.
    """
    from freqfusion.data.registration import register_datasets
    from freqfusion.engine.setup import fit_device, load_config

    if config_file and not Path(config_file).is_file():
        raise ValueError(f"there is no configuration {config_file}")
    try:
        cfg = load_config(config_file or "", overrides)
    except AssertionError as error:  # yacs, for a key without a value
        raise ValueError(str(error)) from error
    if weights:
        cfg.MODEL.WEIGHTS = weights
    if needs_weights:
        check_weights(cfg.MODEL.WEIGHTS)
    fit_device(cfg)
    register_datasets(cfg.DATASETS.DECLARED)
    return cfg
