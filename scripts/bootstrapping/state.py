"""What the last installation left behind, so that the next run knows how little there is to do."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

STAMP = "freqfusion-install.json"
MARKER = "freqfusion-install.running"


@dataclass(frozen=True)
class State:
    """A finished installation.

    ``fingerprint`` covers everything that determines it but the source of detectron2, of which
    ``source`` is the identity. ``problem`` says in one phrase why detectron2 is absent (``None``:
    it is there); ``problem_kind`` is ``"download"`` or ``"build"``, and ``tools`` what compiles it,
    so that a failed build is tried again when a compiler has arrived. ``chosen`` is the place that
    the user named for the detectron2 that is installed; it holds until another one is named.
    """

    fingerprint: str
    source: str
    torch: str
    problem: str | None = None
    problem_kind: str | None = None
    tools: str = ""
    chosen: str = ""


def fingerprint(files: list[Path], values: list[str]) -> str:
    """Return a hash of the files' contents and of the values."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    for value in values:
        digest.update(value.encode() + b"\0")
    return digest.hexdigest()


def load_state(folder: Path) -> State | None:
    """Return what the last finished installation recorded, ``None`` where nothing can be read."""
    try:
        return State(**json.loads((folder / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def save_state(folder: Path, state: State) -> None:
    """Record a finished installation, in one move, so that no half-written record can be read."""
    temporary = folder / f"{STAMP}.tmp"
    temporary.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / STAMP)


def was_interrupted(folder: Path) -> bool:
    """Say whether an installation was killed while it changed the environment."""
    return (folder / MARKER).exists()


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Mark the environment as being changed; the mark stays where the process is killed inside."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).unlink(missing_ok=True)
    (folder / MARKER).touch()
    yield
    (folder / MARKER).unlink(missing_ok=True)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one installation at a time work on the environment; a second one waits.

    The commands of the installation inherit the lock: where only this process is killed, the next
    one waits until pip has ended as well.
    """
    key = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    name = f"freqfusion-install-{os.getuid()}-{key}.lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"Another installation works on {folder}; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
