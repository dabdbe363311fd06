"""Start processes on this machine, and have processes work as a group."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.distributed_c10d import PrefixStore
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
)
from torch.multiprocessing.spawn import start_processes as spawn

from freqfusion.data.synthetic.writing import default_workers
from freqfusion.engine.checkpoint import ASKING, INTERRUPTED
from freqfusion.engine.launch.environment import SLURM
from freqfusion.engine.launch.meeting import TIMEOUT, Meeting
from freqfusion.engine.launch.place import Place

# What each process does: with what it was given, and a question whether it may speak for all.
Work = Callable[[Any, Callable[[], bool]], Any]


def start_processes(
    work: Work,
    given: Any,
    *,
    count: int,
    device: str,
    machines: int = 1,
    machine: int = 0,
    url: str = "auto",
    user_error: int = 2,
) -> int:
    """Run ``work`` in ``count`` new processes here, or in this one where it is the only one.

    When one fails all are ended. Returns ``user_error`` or that of SIGINT where one ended with this
    exit code, else 0; any other failure is an exception with the trace of the process.

    Args:
        work: Importable by its name.
        given: Its first argument.
        count: Processes on this machine.
        device: ``MODEL.DEVICE``.
        machines: How many machines there are.
        machine: The number of this one.
        url: Where all meet, such as ``tcp://<host>:<port>``; "auto": a free port of this machine.
        user_error: See above.
    """
    if count * machines == 1:
        work(given, lambda: True)
        return 0
    url = f"tcp://127.0.0.1:{_free_port()}" if url == "auto" else url
    places = [
        Place(machine * count + number, count * machines, number, count, url)
        for number in range(count)
    ]
    context: Any = spawn(_process, args=(places, work, given, device), nprocs=count, join=False)
    with _signals_handed_on(context.processes) as come:
        try:
            while not context.join():
                pass
        except (ProcessExitedException, ProcessRaisedException):
            # One that lost its connection to that with the user's error may have ended before it.
            codes = {process.exitcode for process in context.processes}
            known = [code for code in (user_error, INTERRUPTED) if code in codes]
            if not known and signal.SIGINT not in come:
                raise
            return known[0] if known else INTERRUPTED
    return INTERRUPTED if signal.SIGINT in come else 0


@contextmanager
def _signals_handed_on(processes: Sequence[Any]) -> Iterator[set[int]]:
    """Meanwhile signals that ask to end go to the processes; yields those that have come."""
    come: set[int] = set()

    def hand_on(number: int, _: Any) -> None:
        come.add(number)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    if threading.current_thread() is not threading.main_thread():
        yield come
        return
    before = [(number, signal.signal(number, hand_on)) for number in ASKING]
    try:
        yield come
    finally:
        for number, handler in before:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def work_in_group(meeting: Meeting, work: Work, given: Any, device: str) -> None:
    """Run ``work`` as one of the processes of a meeting: NCCL on GPUs, gloo on CPUs.

    One of several processes ends here, with code 0 or that of a ``SystemExit``, and Python is not
    finalized: a thread of gloo that releases a tensor meanwhile would abort the process.
    """
    place = meeting.place
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(gpu_of(place))
    else:
        _share_cores(place)
    if place.world_size == 1:
        work(given, lambda: True)
        return
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore("group", meeting.store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=TIMEOUT,
    )
    comm.create_local_process_group(place.local_size)
    comm.synchronize()
    code = 0
    try:
        work(given, meeting.claim)
        leave_group()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_group() -> None:
    """Wait for all processes, then destroy the group: rank 0, which keeps the store, goes last."""
    comm.synchronize()
    dist.destroy_process_group()


def _process(number: int, places: list[Place], work: Work, given: Any, device: str) -> None:
    work_in_group(Meeting(places[number]), work, given, device)


def gpu_of(place: Place) -> int:
    """The number of the GPU of a process; SLURM may show each process its own one only.

    Raises:
        ValueError: if the machine has fewer GPUs than processes.
    """
    found = torch.cuda.device_count()
    if place.starter == SLURM and found == 1:
        return 0
    if found < place.local_size:
        raise ValueError(
            f"{place.starter} started {place.local_size} processes on a machine with {found} GPUs:"
            " start one for each GPU"
        )
    return place.local_rank


def _share_cores(place: Place) -> None:
    """Give each process of this machine its part of the cores; OMP_NUM_THREADS goes first."""
    if place.local_size == 1 or "OMP_NUM_THREADS" in os.environ:
        return
    # SLURM lets a task see its own cores, where it binds tasks to cores.
    own = os.environ.get("SLURM_CPUS_PER_TASK", "") if place.starter == SLURM else ""
    cores = int(own) if own.isdecimal() else default_workers() // place.local_size
    torch.set_num_threads(max(1, cores))


def _free_port() -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
