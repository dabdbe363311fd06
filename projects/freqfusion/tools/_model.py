"""A configuration and its weights as a model, for the tools that run one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from freqfusion.drawing import Picture
from freqfusion.files import check_checkpoint

logger = logging.getLogger(__name__)


def load_model(
    config_file: str, weights: str | None, overrides: Sequence[str] = (), *, unsafe: bool = False
) -> tuple[Any, Any]:
    """Return the configuration and its model, in evaluation mode with its weights.

    Args:
        config_file: YAML file.
        weights: A file or address; None takes ``MODEL.WEIGHTS``; the empty string leaves the model
            as it was initialized, and downloads nothing.
        overrides: ``KEY VALUE`` pairs that change the configuration.
        unsafe: Tags of the configuration may run code.

    Raises:
        ValueError: for a configuration or weights that cannot be read.
    """
    cfg = read_config(config_file, weights, overrides, unsafe=unsafe)
    if weights == "":
        cfg.MODEL.TIMM.PRETRAINED = False
    return cfg, build_model(cfg, needs_weights=weights != "")


def read_config(
    config_file: str, weights: str | None, overrides: Sequence[str] = (), *, unsafe: bool = False
) -> Any:
    """Return the configuration on a device that is there; registers all data sets.

    ``weights``, unless None, come before ``MODEL.WEIGHTS``. With ``unsafe`` tags of the file may
    run code.

    Raises:
        ValueError: if the file is not there, or has keys or values that do not exist.
    """
    from freqfusion.data.registration import register_datasets
    from freqfusion.engine.setup import fit_device, load_config

    if config_file and not Path(config_file).is_file():
        raise ValueError(f"there is no configuration {config_file}")
    try:
        cfg = load_config(config_file, overrides, unsafe=unsafe)
    except AssertionError as error:  # yacs, for a key without a value
        raise ValueError(str(error)) from error
    if weights is not None:
        cfg.MODEL.WEIGHTS = weights
    fit_device(cfg)
    register_datasets(cfg.DATASETS.DECLARED)
    return cfg


def build_model(cfg: Any, *, needs_weights: bool = True) -> Any:
    """Return the model of a configuration with its weights, in evaluation mode.

    Raises:
        ValueError: if there are no weights though they are needed, no such file, or no parameter of
            the model in it.
    """
    from detectron2.modeling import build_model

    from freqfusion.engine.checkpoint import SafeCheckpointer

    if needs_weights or cfg.MODEL.WEIGHTS:
        check_weights(cfg.MODEL.WEIGHTS)
    model = build_model(cfg.clone()).eval()
    if cfg.MODEL.WEIGHTS:
        checkpointer = SafeCheckpointer(model)
        checkpointer.load(cfg.MODEL.WEIGHTS)
        checkpointer.check_loaded(cfg.MODEL.WEIGHTS, every=False)
    return model


@contextmanager
def padded_sizes(model: Any) -> Iterator[list[tuple[int, int]]]:
    """Fill the list with height and width of what the backbone is given within the block.

    It stays empty for a model without a backbone.
    """
    sizes: list[tuple[int, int]] = []
    backbone = getattr(model, "backbone", None)
    if backbone is None or not hasattr(backbone, "register_forward_pre_hook"):
        yield sizes
        return
    hook = backbone.register_forward_pre_hook(
        lambda _, given: sizes.append((given[0].shape[-2], given[0].shape[-1]))
    )
    try:
        yield sizes
    finally:
        hook.remove()


def check_weights(weights: str) -> None:
    """Raise ValueError where no weights are named, or a file is not there or is refused."""
    if not weights:
        raise ValueError(
            "there are no weights to predict with; give --weights FILE, or MODEL.WEIGHTS FILE at"
            " the end of the command line"
        )
    if "://" not in weights and not Path(weights).is_file():
        raise ValueError(f"there is no file of weights {weights}; give another with --weights")
    if "://" not in weights:
        check_checkpoint(weights)


def metadata_of(cfg: Any) -> Any:
    """Return the metadata of the data set to test on, which name the model's classes."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        if name in DatasetCatalog.list():
            return MetadataCatalog.get(name)
    logger.warning("DATASETS.TEST names no registered data set: classes are called by numbers")
    return {}


class Predictor:
    """Runs a model on one RGB image at a time, resized as in Detectron2's evaluation.

    ``model`` is built from the configuration unless it is given.

    Raises:
        ValueError: if there are no weights, or no such file.
    """

    def __init__(self, cfg: Any, model: Any | None = None) -> None:
        from detectron2.data.transforms import ResizeShortestEdge

        self.model = build_model(cfg) if model is None else model
        self.format: str = cfg.INPUT.FORMAT
        shortest = [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST]
        self.resize = ResizeShortestEdge(shortest, cfg.INPUT.MAX_SIZE_TEST)

    def __call__(self, image: Picture) -> dict[str, Any]:
        """Return the model's output at the size of the image, height x width x 3 in RGB."""
        with torch.no_grad():
            output: dict[str, Any] = self.model([self.inputs(image)])[0]
        return output

    def inputs(self, image: Picture) -> dict[str, Any]:
        """Return what the model takes of an image, height x width x 3 in RGB."""
        from detectron2.data.detection_utils import convert_PIL_to_numpy

        height, width = image.shape[:2]
        channels = convert_PIL_to_numpy(Image.fromarray(image), self.format)
        resized = self.resize.get_transform(channels).apply_image(channels)
        planes = np.ascontiguousarray(resized.transpose(2, 0, 1)).astype(np.float32)
        return {"image": torch.from_numpy(planes), "height": height, "width": width}
