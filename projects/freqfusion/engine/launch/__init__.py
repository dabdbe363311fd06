"""Several processes: started here, by ``torchrun`` or by SLURM's ``srun``."""

from freqfusion.engine.launch.environment import place_in_environment
from freqfusion.engine.launch.meeting import Finding, Meeting
from freqfusion.engine.launch.place import Place
from freqfusion.engine.launch.processes import (
    gpu_of,
    leave_group,
    start_processes,
    work_in_group,
)
from freqfusion.engine.launch.request import check_nothing_asked, processes_here

__all__ = [
    "Finding",
    "Meeting",
    "Place",
    "check_nothing_asked",
    "gpu_of",
    "leave_group",
    "place_in_environment",
    "processes_here",
    "start_processes",
    "work_in_group",
]
