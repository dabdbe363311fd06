"""Where detectron2 comes from: a git URL, an archive on the web, a folder or a wheel."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROBE_SECONDS = 6.0
FIRST_PROBE_SECONDS = 20.0

# git must neither ask for a password nor wait for a host key.
QUIET_GIT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=5",
}


@dataclass(frozen=True)
class Source:
    """A place that pip can install detectron2 from.

    ``requirement`` names the place; ``identity`` changes when its content is known to have changed.
    """

    kind: Literal["git", "archive", "file", "folder"]
    requirement: str
    identity: str

    @property
    def argument(self) -> str:
        """What pip is given: with the name, by which it finds a wheel that it has built before."""
        remote = self.kind in ("git", "archive")
        return f"detectron2 @ {self.requirement}" if remote else self.requirement


def parse_source(value: str) -> Source:
    """Understand the value of ``DETECTRON2``.

    Raises ``ValueError`` for a path that does not exist and for a folder that cannot be installed.
    """
    value = value.strip()
    if value.startswith("git+"):
        return Source("git", value, value)
    if re.match(r"(https?|ssh|git)://", value) or re.match(r"[\w.-]+@[\w.-]+:", value):
        if re.search(r"\.(whl|zip|tar\.gz|tgz)([?#].*)?$", value):
            return Source("archive", value, value)
        return Source("git", f"git+{value}", f"git+{value}")
    path = Path(value.removeprefix("file://")).expanduser().resolve()
    if path.is_file():
        status = path.stat()
        return Source("file", str(path), f"{path} {status.st_size} {status.st_mtime_ns}")
    if not path.is_dir():
        raise ValueError(
            f"DETECTRON2={value}: there is no such file or folder. Give a wheel, a folder with "
            "detectron2's setup.py, or a URL such as git+https://host/detectron2.git@commit."
        )
    return _parse_folder(value, path)


def _parse_folder(value: str, path: Path) -> Source:
    if not (path / "setup.py").is_file() and not (path / "pyproject.toml").is_file():
        raise ValueError(
            f"DETECTRON2={value}: the folder has no setup.py, so it is not a checkout of "
            f"detectron2. For a bare repository write DETECTRON2=git+file://{path}@<commit>."
        )
    return Source("folder", str(path), f"{path} {_head(path)}")


def _head(path: Path) -> str:
    """Return the commit of a checkout, or the time of its last change where there is no git."""
    command = ["git", "-C", str(path), "rev-parse", "HEAD"]
    if (path / ".git").exists() and shutil.which("git"):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return answer.stdout.strip()
    return str(max(path.glob("*"), key=lambda item: item.stat().st_mtime_ns).stat().st_mtime_ns)


def repository_url(requirement: str) -> str:
    """Return git's URL, without pip's ``git+`` prefix, ``@revision`` and ``#fragment``."""
    url = requirement.removeprefix("git+").partition("#")[0]
    head, slash, tail = url.rpartition("/")
    return head + slash + tail.partition("@")[0]


def is_reachable(source: Source, seconds: float = PROBE_SECONDS) -> bool:
    """Ask in a short time whether the source answers; a local one always does."""
    if source.kind == "git":
        return _git_answers(repository_url(source.requirement), seconds)
    if source.kind == "archive":
        request = urllib.request.Request(source.requirement, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                return True
        except (urllib.error.URLError, OSError):
            return False
    return True


def _git_answers(url: str, seconds: float) -> bool:
    if shutil.which("git") is None:
        return False
    process = subprocess.Popen(
        ["git", "ls-remote", "--exit-code", url, "HEAD"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **QUIET_GIT},
        start_new_session=True,
    )
    try:
        return process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # git's helper processes too
            process.wait()
