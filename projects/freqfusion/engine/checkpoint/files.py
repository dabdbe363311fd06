"""Files that are there in whole or not at all, and their checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARTIAL = ".tmp"
CHECKSUM = ".sha256"
_PIECE = 1 << 20


class SaveError(OSError):
    """A checkpoint could not be written; its text says which, why, and what room there is."""


class _Writer:
    """What is written to a file, with its checksum and the first error of the system."""

    def __init__(self, file: Any) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            # torch turns it into one of its own, without the reason.
            self.error = error
            raise
        self._hash.update(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._file.flush()

    @property
    def checksum(self) -> str:
        return self._hash.hexdigest()


def replace_file(
    path: Path, write: Callable[[Any], object], *, with_checksum: bool = False
) -> None:
    """Write a file beside its place, have it on the disk, and only then put it there.

    A process that is killed leaves the earlier file, or the new one in whole, and perhaps one that
    ends in ``.tmp``. Without a checksum file beside it a file is whole all the same.

    Args:
        path: In a folder that exists.
        write: Gets a binary file, and may only write to it, from its start to its end.
        with_checksum: Write ``<file>.sha256`` too, which ``sha256sum -c`` reads.

    Raises:
        SaveError: if it cannot be written; the earlier file is as it was.
    """
    partial = path.with_name(path.name + PARTIAL)
    note = path.with_name(path.name + CHECKSUM)
    try:
        checksum = _write_through(partial, write)
        if with_checksum:
            # No moment at which a file stands beside the checksum of another.
            note.unlink(missing_ok=True)
        os.replace(partial, path)
        if with_checksum:
            line = f"{checksum}  {path.name}\n".encode()
            _write_through(note.with_name(note.name + PARTIAL), lambda file: file.write(line))
            os.replace(note.with_name(note.name + PARTIAL), note)
        _sync_folder(path.parent)
    except OSError as error:
        for left in (partial, note.with_name(note.name + PARTIAL)):
            left.unlink(missing_ok=True)
        raise SaveError(f"{path} could not be written: {error} ({_room(path.parent)})") from error


def _write_through(path: Path, write: Callable[[Any], object]) -> str:
    """Write and wait for the disk; returns the checksum."""
    with open(path, "wb") as file:
        writer = _Writer(file)
        try:
            write(writer)
        except Exception:
            if writer.error is not None:
                raise writer.error from None
            raise
        file.flush()
        os.fsync(file.fileno())
    return writer.checksum


def _sync_folder(folder: Path) -> None:
    """Have the names of its files on the disk; not every system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _room(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "the free space there is unknown"
    return f"{free / 2**20:.0f} MiB are free there"


def expected_checksum(path: Path) -> str | None:
    """What ``<file>.sha256`` says; None where there is none, "" where it cannot be made out."""
    try:
        text = path.with_name(path.name + CHECKSUM).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    words = text.split()
    return words[0] if len(words) == 2 and words[1] == path.name else ""


def checksum_of(path: Path) -> str:
    """SHA-256 of what a file holds."""
    result = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            result.update(piece)
    return result.hexdigest()
