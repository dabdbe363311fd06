"""Keep a run from writing over another one without a request."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from detectron2.utils import comm

from freqfusion.engine.checkpoint import has_checkpoint
from freqfusion.messages import shorten

logger = logging.getLogger(__name__)

# What a training writes into OUTPUT_DIR.
FILES = (
    "model_[0-9]*.pth",
    "model_final.pth",
    "model_best.pth",
    "model_best.json",
    "last_checkpoint",
    "metrics.json",
    "results.json",
    ".model_*.part",
    ".last_checkpoint.*.part",
    ".results.json.*.part",
    "config.yaml",
    "log.txt",
    "log.txt.rank*",
    "events.out.tfevents.*",
)
FOLDERS = ("inference",)
LOCK = ".lock"  # stays in the folder: the lock is the system's, not that there is a file
# What a run that ends before its first record leaves; it is no run that one could go on with.
_BEGINNING = (LOCK, "config.yaml", "log.txt", "log.txt.rank*", "events.out.tfevents.*")
_NAMED = 3


def check_output_folder(folder: str, arguments: argparse.Namespace) -> None:
    """Refuse to start a training where anything lies already, or to evaluate what is not there.

    Raises:
        ValueError: unless the folder is empty or new, or ``--resume`` or ``--overwrite`` is given;
            for an evaluation with ``--resume`` unless it has a checkpoint.
    """
    given = [getattr(arguments, name, False) for name in ("resume", "overwrite")]
    if getattr(arguments, "eval_only", False):
        if given[0] and not has_checkpoint(folder):
            raise ValueError(
                f"OUTPUT_DIR {folder} has no checkpoint that --eval-only --resume could evaluate:"
                " name the folder of a run, or leave out --resume and give MODEL.WEIGHTS FILE"
            )
        return
    if all(given):
        raise ValueError("--resume goes on with a run and --overwrite deletes it: give one of them")
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"OUTPUT_DIR {folder} is a file: name a folder")
    there = (
        sorted(entry.name for entry in path.iterdir() if not _is_beginning(entry))
        if path.is_dir()
        else []
    )
    if there and not any(given):
        raise ValueError(
            f"OUTPUT_DIR {folder} is not empty ({shorten(there, _NAMED)}): go on with the"
            " run there by --resume, delete it by --overwrite, or name another folder"
        )


def _is_beginning(entry: Path) -> bool:
    if entry.name == "metrics.json":
        return not entry.stat().st_size
    return any(entry.match(pattern) for pattern in _BEGINNING)


def remove_run(folder: str) -> None:
    """Delete what a training writes, and nothing else."""
    path = Path(folder)
    files = [file for pattern in FILES for file in path.glob(pattern) if not file.is_dir()]
    folders = [path / name for name in FOLDERS if (path / name).is_dir()]
    for file in files:
        file.unlink(missing_ok=True)
    for one in folders:
        if one.is_symlink():
            one.unlink()
        else:
            shutil.rmtree(one)
    if files or folders:
        logger.info("--overwrite deleted %d files and folders of a run", len(files) + len(folders))


@contextmanager
def locked_folder(folder: str) -> Iterator[None]:
    """Keep other runs out of a folder; all processes of a run enter and leave together.

    The lock of the main process ends with it, however it ends. There is none on Windows and on
    file systems without locks.

    Raises:
        ValueError: in all processes, if another run is in the folder.
    """
    with ExitStack() as held:
        problem = ""
        if comm.is_main_process():
            try:
                os.makedirs(folder, exist_ok=True)
                file = held.enter_context(open(os.path.join(folder, LOCK), "a+", encoding="utf-8"))
                _lock(file, folder)
            except (ValueError, OSError) as error:
                problem = str(error)
        problem = comm.all_gather(problem)[0]
        if problem:
            raise ValueError(problem)
        yield


def _lock(file: TextIO, folder: str) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        # Not flock, which a forked worker that outlives this process would go on to hold.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.seek(0)
        raise ValueError(
            f"OUTPUT_DIR {folder} is in use by {file.read(300) or 'another process'}: wait for its"
            " end, end it, or name another folder"
        ) from error
    except OSError as error:
        logger.warning("%s has no lock against other runs: %s", folder, error)
        return
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
    file.flush()
