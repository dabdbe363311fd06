"""Command line to configuration."""

import argparse
import logging

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import freqfusion.modeling  # noqa: F401 - registers what a configuration can name
from freqfusion.config import get_freqfusion_cfg
from freqfusion.data.registration import register_datasets

logger = logging.getLogger(__name__)


def setup(arguments: argparse.Namespace) -> CfgNode:
    """The frozen configuration of Detectron2's command line, with logging set up."""
    register_datasets()
    cfg = load_config(arguments.config_file, arguments.opts)
    moved = fit_device(cfg)
    cfg.freeze()
    # Detectron2 sets up its own loggers only.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="freqfusion")
    default_setup(cfg, arguments)
    if moved:
        logger.warning("There is no GPU: training on the CPU")
    return cfg


def load_config(path: str, overrides: list[str] | None = None) -> CfgNode:
    """Read a YAML file, which may name a ``_BASE_``, as plain data: it cannot run code."""
    cfg = get_freqfusion_cfg()
    if path:
        try:
            loaded = CfgNode.load_yaml_with_base(path, allow_unsafe=False)
        except yaml.constructor.ConstructorError as error:
            raise ValueError(
                f"{path} holds a YAML tag that would run code, which a configuration must not: "
                f"{error}"
            ) from error
        cfg.merge_from_other_cfg(CfgNode(loaded))
    cfg.merge_from_list(overrides or [])
    return cfg


def fit_device(cfg: CfgNode) -> bool:
    """Move to the CPU where the configuration names a GPU and there is none; say whether it did."""
    if not cfg.MODEL.DEVICE.startswith("cuda") or torch.cuda.is_available():
        return False
    cfg.MODEL.DEVICE = "cpu"
    return True
