"""Several processes: those that ``torchrun`` has started, or those to start on this machine.

Detectron2's ``launch`` takes NCCL wherever there is a GPU, and hands no signal on.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.distributed.distributed_c10d import _get_default_store
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException
from torch.multiprocessing.spawn import start_processes as spawn

from freqfusion.data.workers import default_workers
from freqfusion.engine.checkpoint import INTERRUPTED, handled_signals

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_TIMEOUT = timedelta(minutes=30)
_SPEAKING = 0.5  # seconds for a process to write a sentence, before the others end

Work = Callable[[Any], object]


def is_in_torchrun() -> bool:
    """Return whether ``torchrun`` has started this process."""
    return all(name in os.environ for name in _RANKS)


def start_processes(
    work: Work,
    given: Any,
    *,
    count: int,
    device: str,
    machines: int = 1,
    machine: int = 0,
    url: str = "auto",
) -> int:
    """Run ``work(given)`` in ``count`` new processes here, or in this one where it is the only one.

    When one fails all are ended. Returns 0, or the exit code of a process that ended by SIGINT or
    a user's mistake (2); any other failure is an exception with the trace of the process.

    Args:
        work: Importable by its name.
        given: Its argument.
        count: Processes on this machine.
        device: ``MODEL.DEVICE``.
        machines: How many machines there are.
        machine: The number of this one.
        url: Rendezvous of several machines, ``tcp://<host>:<port>``; "auto": a free port here.
    """
    if count * machines == 1:
        work(given)
        return 0
    if url == "auto":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    arguments = (work, given, device, machine * count, machines * count, count, url)
    context: Any = spawn(_work_in_group, args=arguments, nprocs=count, join=False)
    with _signals_forwarded(context.processes) as received:
        try:
            while not context.join():
                pass
        except (ProcessExitedException, ProcessRaisedException):
            # One that lost its connection to that with the user's error may have ended before it.
            codes = {process.exitcode for process in context.processes}
            known = [code for code in (2, INTERRUPTED) if code in codes]
            if not known and signal.SIGINT not in received:
                raise
            return known[0] if known else INTERRUPTED
    return INTERRUPTED if signal.SIGINT in received else 0


def work_in_torchrun(work: Work, given: Any, device: str) -> None:
    """Run ``work(given)`` in this process, which ``torchrun`` has started with others."""
    rank, world_size, number, local_size = (int(os.environ[name]) for name in _RANKS)
    _work_in_group(number, work, given, device, rank - number, world_size, local_size, "env://")


def may_report() -> bool:
    """Return whether this process is the first of its run to report a user's mistake."""
    if not dist.is_initialized():
        return True
    try:
        if _get_default_store().add("reported", 1) == 1:
            return True
    except RuntimeError:  # the process that keeps the store has ended, hence has reported
        return False
    # When this one ends, all are ended: not before the first has spoken.
    time.sleep(_SPEAKING)
    return False


def leave_group() -> None:
    """Wait for all processes, then destroy the group."""
    comm.synchronize()
    dist.destroy_process_group()


def _work_in_group(
    number: int,
    work: Work,
    given: Any,
    device: str,
    first_rank: int,
    world_size: int,
    local_size: int,
    url: str,
) -> None:
    """Run ``work(given)`` in a group of processes: NCCL on GPUs, gloo on CPUs.

    One of several processes ends here, with code 0 or that of a ``SystemExit``, and Python is not
    finalized: a thread of gloo that releases a tensor meanwhile would abort the process.
    """
    on_gpu = device.startswith("cuda") and torch.cuda.device_count() >= local_size
    if on_gpu:
        torch.cuda.set_device(number)
    elif local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, default_workers() // local_size))
    if world_size == 1:
        work(given)
        return
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=url,
        rank=first_rank + number,
        world_size=world_size,
        timeout=_TIMEOUT,
    )
    comm.create_local_process_group(local_size)
    comm.synchronize()
    code = 0
    try:
        work(given)
        leave_group()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _signals_forwarded(processes: Sequence[Any]) -> Iterator[set[int]]:
    """Forward signals that ask a run to end to its processes; yield those that have come."""
    received: set[int] = set()

    def forward(number: int, _: Any) -> None:
        received.add(number)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    with handled_signals(forward):
        yield received
