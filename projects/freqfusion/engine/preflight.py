"""What would stop a run, told before it begins."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from freqfusion.config_check import check_config, did_you_mean
from freqfusion.engine.checkpoint import has_checkpoint, local_weights
from freqfusion.engine.model_check import check_model
from freqfusion.files import check_checkpoint

# Addresses that are left to the run, since a download may take long.
_DOWNLOADED = ("https://", "http://", "ftp://", "detectron2://")


def preflight(
    cfg: CfgNode, *, world_size: int = 1, resume: bool = False, eval_only: bool = False
) -> None:
    """Raise one ValueError with every problem as a numbered sentence; nothing where all is well.

    Looks at the keys, at the names of what is registered, at the model (built without memory for
    its weights) and at the data sets' classes, files and folders; reads no image and no truth.

    Args:
        cfg: The configuration, with the device that it will run on.
        world_size: Number of processes of the run.
        resume: The last checkpoint of the output folder takes the place of ``MODEL.WEIGHTS``.
        eval_only: Nothing is trained, so ``DATASETS.TRAIN`` is not needed.
    """
    keys = check_config(cfg, 1 if eval_only else world_size)
    problems = [
        *keys,
        *_check_machine(cfg, world_size, eval_only),
        *check_model(cfg, build=not keys),
        *_check_weights(cfg, resume),
        *_check_datasets(cfg, eval_only),
    ]
    if not problems:
        return
    lines = [f"{number}. {problem}" for number, problem in enumerate(problems, start=1)]
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise ValueError("\n".join([f"the configuration has {count}:", *lines]))


def _check_machine(cfg: CfgNode, world_size: int, eval_only: bool) -> Iterator[str]:
    if world_size > 1 and cfg.MODEL.DEVICE.startswith("cuda:"):
        yield (
            f"MODEL.DEVICE {cfg.MODEL.DEVICE} is one GPU for all {world_size} processes: set"
            " MODEL.DEVICE cuda, and each takes its own"
        )
    if world_size > 1 and cfg.MODEL.DEVICE == "cpu" and not eval_only:
        for key in _gpu_norms(cfg.MODEL, "MODEL."):
            yield (
                f"{key} SyncBN needs GPUs where there are several processes: take naiveSyncBN,"
                " which does the same on CPUs, or GN"
            )
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        yield f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but there is no GPU: set MODEL.DEVICE cpu"


def _gpu_norms(node: CfgNode, prefix: str) -> Iterator[str]:
    """Keys that name torch's normalisation over all processes, which runs on GPUs only."""
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _gpu_norms(value, f"{prefix}{name}.")
        elif name == "NORM" and value in ("SyncBN", "nnSyncBN"):
            yield f"{prefix}{name}"


def _check_weights(cfg: CfgNode, resume: bool) -> Iterator[str]:
    """Whether the weights are there and can be read, as far as that shows without reading them."""
    path = cfg.MODEL.WEIGHTS
    if not path or (resume and has_checkpoint(cfg.OUTPUT_DIR)) or path.startswith(_DOWNLOADED):
        return
    try:
        local = local_weights(path)
        if os.path.exists(local):
            check_checkpoint(local)
        else:
            yield f"MODEL.WEIGHTS names {path}, which does not exist"
    except (ValueError, OSError) as error:
        yield f"MODEL.WEIGHTS: {error}"


def _check_datasets(cfg: CfgNode, eval_only: bool) -> Iterator[str]:
    kinds = ["TEST"] if eval_only else ["TRAIN", "TEST"]
    if not cfg.DATASETS[kinds[0]]:
        doing = "evaluate" if eval_only else "train on"
        yield f"DATASETS.{kinds[0]} names no data set to {doing}"
    names = []
    for kind in kinds:
        for name in cfg.DATASETS[kind]:
            if name in DatasetCatalog.list():
                names.append(name)
            else:
                hint = did_you_mean(name, DatasetCatalog.list())
                yield (
                    f"DATASETS.{kind} names {name}, which is not registered"
                    f"{hint or '; DATASETS.DECLARED takes the YAML files of your own data sets'}"
                )
    if names:
        yield from _data_problems(cfg, list(dict.fromkeys(names)))


def _data_problems(cfg: CfgNode, names: Sequence[str]) -> list[str]:
    """What the quick part of the data checks finds; notes are left to the tool that checks data."""
    from freqfusion.data.validation import check_classes, check_files_exist

    findings = [*check_files_exist(names), *check_classes(cfg, names)]
    return [finding.sentence() for finding in findings if finding.severity == "error"]
