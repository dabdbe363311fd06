"""Command line to configuration."""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

import freqfusion.modeling  # noqa: F401 - registers what a configuration can name
from freqfusion.config import get_freqfusion_cfg, inner_backbone
from freqfusion.config_names import find_config
from freqfusion.data.registration import register_datasets
from freqfusion.engine.checks import preflight
from freqfusion.engine.config_file import merge_file, merge_overrides, read_config_file
from freqfusion.engine.output_folder import check_output_folder, locked_folder, remove_run

logger = logging.getLogger(__name__)


def setup(
    arguments: argparse.Namespace, *, checked: bool = False, hold: ExitStack | None = None
) -> CfgNode:
    """Return the frozen configuration of Detectron2's command line, with logging set up.

    ValueError for what the user can mend, before anything is built or written: see ``load_config``
    and ``preflight``, which is left out where the configuration is ``checked`` already. ``hold``
    keeps other runs out of the output folder until it is closed.
    """
    requested, cfg = read(arguments)
    if not checked:
        _preflight(cfg, arguments, comm.get_world_size())
        check_output_folder(cfg.OUTPUT_DIR, arguments)
    if hold is not None:
        hold.enter_context(locked_folder(cfg.OUTPUT_DIR))
    if getattr(arguments, "overwrite", False) and not arguments.eval_only:
        if comm.is_main_process():
            remove_run(cfg.OUTPUT_DIR)
        comm.synchronize()
    cfg.freeze()
    # Detectron2 sets up its own loggers only.
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="freqfusion")
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank())
    _show_dumps(getattr(arguments, "debug", False))
    for line in summary(cfg, arguments):
        logger.info(line)
    default_setup(cfg, arguments)
    if cfg.MODEL.DEVICE != requested.MODEL.DEVICE:
        lost = requested.SOLVER.AMP.ENABLED and not cfg.SOLVER.AMP.ENABLED
        without = ", in full precision" if lost else ""
        logger.warning("There is no GPU: running on the CPU%s", without)
    for warning in config_warnings(cfg):
        logger.warning(warning)
    return cfg


def summary(cfg: CfgNode, arguments: argparse.Namespace) -> Iterator[str]:
    """Yield five lines on a run: the model, the data, the device, how long, and the output."""
    name, node = arguments.config_file or "no file", cfg.SOLVER
    tests_only = getattr(arguments, "eval_only", False)
    weights = cfg.MODEL.WEIGHTS or "random weights"
    yield f"model    {cfg.MODEL.META_ARCHITECTURE} on {cfg.MODEL.BACKBONE.NAME} ({name}), {weights}"
    tested = ", ".join(cfg.DATASETS.TEST) or "nothing"
    trained = "" if tests_only else f"trained on {', '.join(cfg.DATASETS.TRAIN)}, "
    yield f"data     {trained}tested on {tested}"
    device, count = cfg.MODEL.DEVICE, comm.get_world_size()
    threads = torch.get_num_threads()
    has = f"{threads} thread{'s' * (threads > 1)}"
    if device.startswith("cuda"):
        has = torch.cuda.get_device_name(device)
    yield f"device   {device} ({has}), {count} process{'es' * (count > 1)}"
    steps = f"{node.MAX_ITER} iterations of {node.IMS_PER_BATCH} images"
    yield f"length   {'one evaluation' if tests_only else steps}"
    yield f"output   {cfg.OUTPUT_DIR}"


# Beginnings of what Detectron2 logs at length.
_DUMPS = (
    "Environment info:",
    "Command line arguments:",
    "Contents of args.config_file=",
    "Running with full config:",
    "Model:",
)


def _is_short(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_DUMPS)


def _show_dumps(shown: bool) -> None:
    """Show or hide on the terminal what Detectron2 logs at length; ``log.txt`` has it."""
    for handler in logging.getLogger("detectron2").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.removeFilter(_is_short)
            if not shown:
                handler.addFilter(_is_short)


def check(arguments: argparse.Namespace, world_size: int | None = None) -> tuple[str, int]:
    """Read and check the configuration for all processes of a run, before they work.

    Args:
        arguments: Of the command line.
        world_size: Number of processes, where these have been started already.

    Returns:
        ``MODEL.DEVICE`` on this machine, and how many processes to start here.
    """
    _, cfg = read(arguments)
    here = count_processes(arguments, cfg.MODEL.DEVICE, started=world_size)
    _preflight(cfg, arguments, world_size or here * arguments.num_machines)
    check_output_folder(cfg.OUTPUT_DIR, arguments)
    random = getattr(arguments, "allow_random_weights", False) or arguments.resume
    if arguments.eval_only and not (cfg.MODEL.WEIGHTS or random):
        raise ValueError(
            "there are no weights to evaluate: give MODEL.WEIGHTS FILE, or --resume for the last"
            " checkpoint of OUTPUT_DIR; --allow-random-weights evaluates the model as it is built"
        )
    return str(cfg.MODEL.DEVICE), here


def load_config(
    path: str, overrides: Sequence[Any] | None = None, *, unsafe: bool = False
) -> CfgNode:
    """Read a YAML file, which may name a ``_BASE_``, as plain data, then set ``KEY VALUE`` pairs.

    ``path`` may be a name of ``freqfusion.model_zoo`` as well. The file cannot run code, unless
    ``unsafe`` allows it. ValueError with a sentence for each key that does not exist or whose value
    is of another type, and for files that cannot be read.
    """
    cfg = get_freqfusion_cfg()
    if path:
        merge_file(cfg, read_config_file(find_config(path), unsafe=unsafe))
    merge_overrides(cfg, overrides or [])
    return cfg


def fit_device(cfg: CfgNode) -> bool:
    """Move to the CPU where the configuration names a GPU and there is none; say whether it did.

    Mixed precision in float16 needs the GPU and is switched off with it. ValueError for a device
    that torch does not know or that this machine does not have.
    """
    check_device(cfg.MODEL.DEVICE)
    if not cfg.MODEL.DEVICE.startswith("cuda") or torch.cuda.is_available():
        return False
    cfg.MODEL.DEVICE = "cpu"
    if cfg.SOLVER.AMP.DTYPE == "float16":
        cfg.SOLVER.AMP.ENABLED = False
    return True


def check_device(name: str) -> None:
    """Raise ValueError unless torch knows a device, and can use it where it is no GPU of CUDA."""
    try:
        if torch.device(name).type != "cuda":  # which is not to be set up in this process
            torch.empty(0, device=name)
    except Exception as error:
        raise ValueError(
            f"MODEL.DEVICE {name} is no device that torch can use here: set cuda, or cpu"
        ) from error


def read(arguments: argparse.Namespace) -> tuple[CfgNode, CfgNode]:
    """Return the configuration as it is written and as it fits the machine; register data sets."""
    unsafe = getattr(arguments, "allow_unsafe_config", False)
    requested = load_config(arguments.config_file, arguments.opts, unsafe=unsafe)
    register_datasets(requested.DATASETS.DECLARED)
    cfg = requested.clone()
    fit_device(cfg)
    return requested, cfg


def _preflight(cfg: CfgNode, arguments: argparse.Namespace, world_size: int) -> None:
    preflight(
        cfg,
        world_size=world_size,
        resume=getattr(arguments, "resume", False),
        eval_only=getattr(arguments, "eval_only", False),
    )


def count_processes(options: argparse.Namespace, device: str, started: int | None = None) -> int:
    """Return how many processes the command line asks to start here, for ``MODEL.DEVICE``.

    Args:
        options: Of the command line.
        device: ``MODEL.DEVICE`` on this machine.
        started: How many ``torchrun`` has started, where it has.

    Raises:
        ValueError: if the options do not fit the device, the machine or one another.
    """
    gpus, processes = options.num_gpus, getattr(options, "num_processes", None)
    if started:
        if gpus > 1 or processes is not None or options.num_machines > 1:
            raise ValueError(
                "--num-gpus, --num-processes and --num-machines start processes, but torchrun has"
                f" started {started} of them: leave out one of the two"
            )
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        found = torch.cuda.device_count()
        if device.startswith("cuda") and found < local:
            raise ValueError(
                f"torchrun started {local} processes on a machine with {found} GPUs: start one for"
                " each GPU"
            )
        return 1
    if processes is not None and processes < 1:
        raise ValueError(f"--num-processes must be at least 1; got {processes}")
    if options.num_machines > 1 and "127.0.0.1" in options.dist_url:
        raise ValueError(
            f"--num-machines {options.num_machines} needs --dist-url tcp://<machine 0>:<port>,"
            f" the same on all machines; {options.dist_url} is each machine itself"
        )
    if not device.startswith("cuda"):
        if gpus > 1:
            raise ValueError(
                f"--num-gpus {gpus} asks for GPUs, but this runs on the CPU: leave it out, or take"
                f" --num-processes {gpus} for processes on the CPU"
            )
        return int(processes or 1)
    if processes is not None:
        raise ValueError(
            f"--num-processes {processes} is for the CPU (MODEL.DEVICE cpu); for GPUs write"
            " --num-gpus"
        )
    found = torch.cuda.device_count()
    if gpus > max(1, found):
        raise ValueError(f"--num-gpus {gpus} is more than this machine has, which is {found}")
    return max(1, int(gpus))  # Detectron2 takes no GPUs for one process


def config_warnings(cfg: CfgNode) -> Iterator[str]:
    """Yield what works but is seldom meant, one sentence each."""
    node, model = cfg.SOLVER, cfg.MODEL
    if not model.WEIGHTS and "resnet" in inner_backbone(cfg):
        if model.RESNETS.NORM == "FrozenBN":
            yield (
                "MODEL.RESNETS.NORM FrozenBN keeps statistics of given weights, but MODEL.WEIGHTS"
                " is empty: the network will hardly train; set MODEL.WEIGHTS, or"
                " MODEL.RESNETS.NORM BN"
            )
        if model.BACKBONE.FREEZE_AT > 0:
            yield (
                f"MODEL.BACKBONE.FREEZE_AT {model.BACKBONE.FREEZE_AT} freezes random weights, since"
                " MODEL.WEIGHTS is empty: set MODEL.WEIGHTS, or MODEL.BACKBONE.FREEZE_AT 0"
            )
    late = [step for step in node.STEPS if step >= node.MAX_ITER]
    if late and node.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        yield (
            f"SOLVER.STEPS {late} come after the last iteration (SOLVER.MAX_ITER"
            f" {node.MAX_ITER}): the learning rate will not fall there"
        )
