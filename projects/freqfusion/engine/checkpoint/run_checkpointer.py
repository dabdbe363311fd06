"""The checkpoints in the output folder of a run."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm

from freqfusion.engine.checkpoint.weights import NOTE, SafeCheckpointer, noted
from freqfusion.files import read_checkpoint, write_whole

logger = logging.getLogger(__name__)

_NAMES = re.compile(r"model_(\d{7,}|final)\.pth")
_UNFINISHED = re.compile(rf"\.(model_\w+\.(pth|json)|results\.json|{NOTE})\.\d+\.part")


class SaveError(OSError):
    """Raised for a checkpoint that cannot be written; says which, why, and what room there is."""


class RunCheckpointer(SafeCheckpointer):
    """A checkpointer whose files survive a process that is killed.

    A checkpoint is written under another name, flushed and renamed; then ``last_checkpoint`` names
    it. What goes on from a run takes the newest checkpoint that is whole.
    """

    _chosen: str | None = None

    def save(self, name: str, **extra: Any) -> None:
        """Write the model, what it was made with and ``extra`` to ``<name>.pth``.

        Raises:
            SaveError: if there is no room, or for another reason of the system; what was saved
                before stays.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content |= {key: given.state_dict() for key, given in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        logger.info("Saving checkpoint to %s", path)
        content |= extra
        save_file(path, content)
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Have ``last_checkpoint`` name a file."""
        write_whole(Path(self.save_dir) / NOTE, last_filename_basename)

    def remove_old(self, keep: int) -> None:
        """Remove all but the newest ``keep`` numbered checkpoints; never the last one."""
        folder = Path(self.save_dir)
        last = noted(folder)
        numbered = sorted(
            path
            for path in folder.glob("model_*.pth")
            if path.stem.removeprefix("model_").isdigit()
        )
        for path in numbered[:-keep]:
            if path != last:
                path.unlink(missing_ok=True)

    def has_checkpoint(self) -> bool:
        """Return whether there is one to go on from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the newest checkpoint that is whole, the same in all processes; "" without any.

        It is chosen once. The one that ``last_checkpoint`` names goes first.

        Raises:
            ValueError: if there are checkpoints, and all of them are damaged.
        """
        if self._chosen is None:
            answer: tuple[str, str] = ("", "")
            if comm.is_main_process():
                try:
                    answer = (self._choose(), "")
                except ValueError as error:
                    answer = ("", str(error))
            chosen, problem = comm.all_gather(answer)[0]
            if problem:
                raise ValueError(problem)
            self._chosen = chosen
        return self._chosen

    def _choose(self) -> str:
        folder = Path(self.save_dir)
        damaged: list[str] = []
        for path in checkpoints(folder):
            problem = damage(path)
            if not problem:
                if damaged:
                    logger.warning("Going on from %s instead, because %s", path, damaged[-1])
                return str(path)
            damaged.append(f"{path} {problem}")
            logger.warning("%s %s", path, problem)
        if damaged:
            raise ValueError(
                f"no checkpoint in {folder} can be used: {'; '.join(damaged)}. Put a whole one"
                " there, or start again with --overwrite"
            )
        return ""


def checkpoints(folder: Path) -> list[Path]:
    """Return those to go on from: the one that ``last_checkpoint`` names, then the newest first.

    Raises:
        ValueError: if it names no file of the folder, and there is no other checkpoint.
    """
    found = [path for path in folder.glob("*.pth") if _NAMES.fullmatch(path.name)]
    found.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    try:
        named = noted(folder)
    except ValueError as error:
        if not found:
            raise
        logger.warning("%s. Other checkpoints there are looked at instead", error)
        return found
    if named is None:
        return found
    if not named.is_file():
        logger.warning("%s names %s, which is not there", folder / NOTE, named.name)
        return found
    return [named, *(path for path in found if path != named)]


def has_checkpoint(folder: str) -> bool:
    """Return whether a folder has checkpoints of a run, whole or not."""
    return bool(checkpoints(Path(folder)))


def damage(path: Path) -> str:
    """Return what is wrong with a checkpoint, as the end of a sentence; "" where nothing is."""
    try:
        read_checkpoint(path)
    except (OSError, ValueError) as error:
        return str(error).removeprefix(f"{path} ")
    return ""


def remove_unfinished(folder: Path) -> None:
    """Remove what a process left that was killed while it was saving."""
    for path in folder.glob(".*.part"):
        if path.is_file() and _UNFINISHED.fullmatch(path.name):
            logger.info("Removing %s, which was not finished", path)
            path.unlink(missing_ok=True)


def save_file(path: Path, content: Any) -> None:
    """Write a file of ``torch.save``, whole and on the disk or not at all.

    Raises:
        SaveError: if it cannot be written; the earlier file is as it was.
    """

    def write(unfinished: Path) -> None:
        with open(unfinished, "wb") as file:
            writer: Any = _Writer(file)
            try:
                torch.save(content, writer)
            except Exception:
                if writer.error is not None:
                    raise writer.error from None
                raise
            file.flush()
            os.fsync(file.fileno())

    try:
        write_whole(path, write)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise SaveError(
            f"{path} could not be written: {error} ({free:.0f} MiB are free there)"
        ) from error


class _Writer:
    """A file that keeps the system's error, which torch turns into one without the reason."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return int(self._file.write(data))
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
