"""What ``torchrun`` and SLURM's ``srun`` tell a process in environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping

from freqfusion.engine.launch.place import Place

TORCHRUN = "torchrun"
SLURM = "SLURM"

_TORCHRUN_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Job numbers are taken for ports from here on; others may be listening below.
_FIRST_PORT, _PORTS = 20000, 12000


def place_in_environment(variables: Mapping[str, str]) -> Place | None:
    """The place that ``torchrun`` or ``srun`` gave this process; None where none of them did.

    ``torchrun`` comes first, since it may run under ``srun``. A step of SLURM with one task is no
    run of several processes: such a task may start its own.

    Raises:
        ValueError: for variables that are missing, are no numbers or do not fit together.
    """
    if all(name in variables for name in _TORCHRUN_NUMBERS):
        rank, size, local_rank, local_size = (
            _number(variables, name, TORCHRUN) for name in _TORCHRUN_NUMBERS
        )
        return Place(rank, size, local_rank, local_size, "env://", TORCHRUN)
    # A batch script has the numbers of tasks too, but is no step.
    if "SLURM_STEP_ID" not in variables or "SLURM_PROCID" not in variables:
        return None
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
    size = _number(variables, tasks, SLURM)
    if size == 1:
        return None
    return Place(
        rank=_number(variables, "SLURM_PROCID", SLURM),
        world_size=size,
        local_rank=_number(variables, "SLURM_LOCALID", SLURM),
        local_size=_tasks_per_machine(variables),
        url=f"tcp://{_slurm_host(variables)}:{_slurm_port(variables)}",
        starter=SLURM,
    )


def first_host(hosts: str) -> str:
    """The first of SLURM's list of machines: ``"gpu[07-09,12],cpu1"`` gives ``"gpu07"``."""
    name = re.match(r"(?:\[[^\]]*\]|[^,\[])*", hosts)
    # In brackets stand numbers and ranges of numbers, with their zeros.
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", name.group() if name else "")


def _number(variables: Mapping[str, str], name: str, starter: str) -> int:
    text = variables.get(name)
    if text is None or not text.isdecimal():
        what = "is not set" if text is None else f"is {text!r}, which is no number"
        raise ValueError(f"{name} {what}, though {starter} started this process")
    return int(text)


def _tasks_per_machine(variables: Mapping[str, str]) -> int:
    """SLURM writes ``"4(x2)"`` for two machines with four tasks, ``"4,2"`` for uneven ones."""
    names = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    name = next((name for name in names if name in variables), names[0])
    text = variables.get(name, "")
    match = re.fullmatch(r"(\d+)(?:\(x\d+\))?", text)
    if not match:
        found = f"is {text}" if text else "is not set"
        raise ValueError(
            f"{name} {found}, but each machine must have as many tasks as the others: write"
            " --ntasks-per-node in place of --ntasks"
        )
    return int(match.group(1))


def _slurm_host(variables: Mapping[str, str]) -> str:
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    lists = [variables[name] for name in names if variables.get(name)]
    host = variables.get("MASTER_ADDR") or (first_host(lists[0]) if lists else "")
    if not host:
        raise ValueError(
            f"SLURM names no machine in {names[0]}: set MASTER_ADDR to the machine of task 0"
        )
    return host


def _slurm_port(variables: Mapping[str, str]) -> int:
    if "MASTER_PORT" in variables:
        return _number(variables, "MASTER_PORT", SLURM)
    numbers = [variables.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    return _FIRST_PORT + sum(int(text) for text in numbers if text.isdecimal()) % _PORTS
