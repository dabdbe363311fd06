"""What the command line says about processes."""

from __future__ import annotations

import argparse

import torch

from freqfusion.engine.launch.place import Place


def processes_here(arguments: argparse.Namespace, device: str) -> int:
    """How many processes to start on this machine, for a device of the configuration.

    Raises:
        ValueError: if the options do not fit the device, the machine or one another.
    """
    gpus, asked = arguments.num_gpus, getattr(arguments, "num_processes", None)
    if asked is not None and asked < 1:
        raise ValueError(f"--num-processes must be at least 1; got {asked}")
    if arguments.num_machines > 1 and "127.0.0.1" in arguments.dist_url:
        raise ValueError(
            f"--num-machines {arguments.num_machines} needs --dist-url tcp://<machine 0>:<port>,"
            f" the same on all machines; {arguments.dist_url} is each machine itself"
        )
    if device.startswith("cuda"):
        return _gpus_here(gpus, asked)
    if gpus > 1:
        raise ValueError(
            f"--num-gpus {gpus} asks for GPUs, but this runs on the CPU: leave it out, or take"
            f" --num-processes {gpus} for processes on the CPU"
        )
    return asked or 1


def check_nothing_asked(arguments: argparse.Namespace, place: Place) -> None:
    """ValueError if the command line asks for processes that something else has started."""
    asked = {
        "--num-gpus": arguments.num_gpus > 1,
        "--num-processes": getattr(arguments, "num_processes", None) is not None,
        "--num-machines": arguments.num_machines > 1,
    }
    wrong = [name for name, given in asked.items() if given]
    if wrong:
        raise ValueError(
            f"{' and '.join(wrong)} would start processes, but {place.starter} has started"
            f" {place.world_size} of them: leave out one of the two"
        )


def _gpus_here(gpus: int, asked: int | None) -> int:
    if asked is not None:
        raise ValueError(
            f"--num-processes {asked} is for the CPU (MODEL.DEVICE cpu); for GPUs write --num-gpus"
        )
    found = torch.cuda.device_count()
    if gpus > max(1, found):
        raise ValueError(f"--num-gpus {gpus} is more than this machine has, which is {found}")
    return max(1, gpus)  # Detectron2 takes no GPUs for one process
