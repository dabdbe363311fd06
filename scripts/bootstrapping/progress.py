"""Run a long command so that it never looks hung: one line per step, the rest in a log file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HEARTBEAT_SECONDS = 15.0
TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a command ended, with the last lines that it wrote."""

    returncode: int
    seconds: float
    tail: tuple[str, ...] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """The last lines as one string."""
        return "\n".join(self.tail)


class Progress:
    """Counts the steps of an installation and shows the time that each one takes."""

    def __init__(self, total: int, log: Path, env: Mapping[str, str] | None = None) -> None:
        self.total = total
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.done = 0

    def announce(self, title: str) -> None:
        """Begin the next step."""
        self.done += 1
        self._say(f"[{self.done}/{self.total}] {title}")

    def note(self, text: str) -> None:
        """Add a line to the current step."""
        self._say(f"      {text}")

    def run(
        self, command: Sequence[str], env: Mapping[str, str] | None = None, *, quiet: bool = False
    ) -> Outcome:
        """Run a command to its end, its output in the log, and return how it ended.

        ``quiet`` is for a quick check that may fail: nothing is said of its end.
        """
        started = time.monotonic()
        lines: deque[str] = deque(maxlen=400)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**self.env, **(env or {})},
                start_new_session=True,
                close_fds=False,  # the lock of the installation is inherited
            )

            def copy() -> None:
                for line in process.stdout or ():
                    log.write(line)
                    log.flush()
                    if line.strip():
                        lines.append(line.rstrip())

            reader = threading.Thread(target=copy, daemon=True)
            reader.start()
            try:
                self._wait(process, lines, started)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGTERM)
                    process.wait()
                reader.join(timeout=5)
        seconds = time.monotonic() - started
        if not quiet:
            self.note(f"{'done' if process.returncode == 0 else 'failed'} in {seconds:.0f} s")
        return Outcome(process.returncode, seconds, tuple(lines))

    def _wait(self, process: subprocess.Popen[str], lines: deque[str], started: float) -> None:
        """Wait for the process and show the time: rewritten on a terminal, else in new lines."""
        live = sys.stdout.isatty()
        pause = TICK_SECONDS if live else HEARTBEAT_SECONDS
        while True:
            try:
                process.wait(timeout=pause)
                break
            except subprocess.TimeoutExpired:
                last = next((line.strip() for line in reversed(lines) if _tells(line)), "")
                text = f"      {time.monotonic() - started:4.0f} s  {last}"
                width = shutil.get_terminal_size().columns - 1
                if live:
                    sys.stdout.write(f"\r\033[K{text[:width]}")
                    sys.stdout.flush()
                else:
                    self._say(text[:160])
        if live:
            sys.stdout.write("\r\033[K")

    def _say(self, text: str) -> None:
        print(text, flush=True)


def _tells(line: str) -> bool:
    """Say whether a line of pip's tells what takes long: not the removal of an older version."""
    return "ninstall" not in line and "Found existing" not in line
