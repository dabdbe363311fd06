"""Take the steps that an environment still needs."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bootstrapping.detectron2 import Problem, build_tools, explain, install_detectron2
from bootstrapping.planning import Plan, Target
from bootstrapping.progress import Outcome, Progress
from bootstrapping.state import MARKER, STAMP, State, changing, load_state, save_state

NEEDED_GIGABYTES = 8
# Settings of the user's shell and of pip that would lead an installation out of the environment.
CLEAN = {
    "PIP_USER": "0",
    "PIP_TARGET": "",
    "PIP_PREFIX": "",
    "PYTHONPATH": "",
    "PYTHONNOUSERSITE": "1",
}


class InstallError(Exception):
    """An installation that cannot go on; the message is for the user."""


@dataclass(frozen=True)
class Installation(Target):
    """The work on an environment."""

    make_venv: tuple[str, ...] = (sys.executable, "-m", "venv")

    def run(self) -> str:
        """Take the steps, and return a line or a paragraph that says what there is now."""
        plan = self.plan()
        if plan.steps:
            self._take(plan)
        contents, state = self.environment.inspect(), load_state(self.environment.path)
        if contents is None or state is None:
            raise InstallError(
                f"The environment {self.environment.path} cannot be used after its installation."
            )
        note = self.note()
        if note and self.options.required:
            raise InstallError(f"{note}")
        version = ".".join(map(str, contents.python))
        found = contents.detectron2
        last = f"detectron2 {found}" if found else "without detectron2"
        ready = f"{self.environment.path}: Python {version}, torch {contents.torch}, {last}"
        return f"{ready}\n\n{note}\n" if note else ready

    def note(self) -> str:
        """Return the paragraph on an absent detectron2, empty where it is there."""
        state = load_state(self.environment.path)
        if state is None or state.problem is None:
            return ""
        contents = self.environment.inspect()
        failed_build = state.problem_kind == "build"
        problem = Problem("build" if failed_build else "download", state.problem)
        return explain(problem, self.source, contents.detectron2 if contents else None)

    def _take(self, plan: Plan) -> None:
        path = self.environment.path
        if plan.create:
            self._clear(plan.reason)
        progress = Progress(plan.steps, self.environment.log, CLEAN)
        started = time.monotonic()
        if plan.create:
            print(
                f"Making the environment {path}: a few minutes and some gigabytes of downloads the "
                "first time, seconds from then on.",
                flush=True,
            )
            _warn_about_space(path)
        with changing(path):
            if self.requirements.constraints:
                lines = "\n".join(self.requirements.constraints)
                self.environment.constraints.write_text(lines, encoding="utf-8")
            failure, problem = self._steps(plan, progress)
        if failure:
            raise InstallError(failure)
        contents = self.environment.inspect()
        torch = (contents.torch if contents else None) or ""
        save_state(
            path,
            State(
                self.fingerprint(),
                self.source.identity,
                torch,
                problem.text if problem else None,
                problem.kind if problem else None,
                build_tools(),
                "" if problem else self.options.source_chosen,
            ),
        )
        seconds = time.monotonic() - started
        print(
            f"Installed in {seconds:.0f} s; pip's output is in {self.environment.log}",
            flush=True,
        )

    def _steps(self, plan: Plan, progress: Progress) -> tuple[str, Problem | None]:
        """Take the steps; return what failed (or "") and why detectron2 is absent (or ``None``)."""
        environment, requirements = self.environment, self.requirements
        problem = None
        if plan.create:
            version = ".".join(map(str, sys.version_info[:3]))
            progress.announce(f"virtual environment with Python {version}")
            outcome = progress.run([*self.make_venv, str(environment.path)])
            if outcome.returncode != 0:
                return self._failure(outcome, "The virtual environment could not be made"), None
        if plan.everything:
            progress.announce(", ".join(requirements.foundation[:3]))
            outcome = progress.run(environment.pip("install", *requirements.foundation))
            if outcome.returncode != 0:
                return self._failure(outcome, "PyTorch could not be installed"), None
        if plan.detectron2:
            patience = "" if self.source.kind == "file" else " (compiling takes some minutes)"
            progress.announce(f"detectron2 from {self.source.requirement}{patience}")
            problem = install_detectron2(environment, self.source, progress)
        progress.announce(f"freqfusion, editable, with its extra {self.options.extras!r}")
        present = () if problem else ("detectron2", *requirements.companions)
        project = f"{self.options.root}[{self.options.extras}]"
        outcome = progress.run(
            environment.pip(
                "install", "--no-build-isolation", "-e", project, *requirements.foundation, *present
            )
        )
        if outcome.returncode != 0:
            return self._failure(outcome, "freqfusion could not be installed"), None
        return "", problem

    def _clear(self, reason: str) -> None:
        """Make room for a new environment; refuse to delete a folder that is not one."""
        path = self.environment.path
        if not path.exists():
            return
        signs = {MARKER, "pyvenv.cfg"}
        names = {item.name for item in path.iterdir()}
        if not names & signs and names - {STAMP, self.environment.log.name}:
            raise InstallError(
                f"VENV={path} is a folder that is no virtual environment; it is left as it is. "
                "Name another one."
            )
        print(f"The environment {path} is made anew: {reason}.", flush=True)
        try:
            for name in sorted(names, key=signs.__contains__):  # the signs last: this may be killed
                item = path / name
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
            path.rmdir()
        except OSError as error:
            raise InstallError(f"The environment {path} cannot be removed: {error}") from error

    def _failure(self, outcome: Outcome, what: str) -> str:
        if "ensurepip is not available" in outcome.text:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            package = f"sudo apt install python{version}-venv"
            return f"{what}: this Python has no venv module (Debian and Ubuntu: {package})."
        lines = "\n".join(f"    {line}" for line in outcome.tail[-15:])
        hint = _network_hint(outcome.text)
        log = self.environment.log
        return f"{what}. The last lines of {log}:\n{lines}\n{hint}Then run the same command again."


def _network_hint(text: str) -> str:
    if "No space left on device" in text:
        return "The disk is full. "
    signs = (
        "NewConnectionError",
        "Temporary failure in name resolution",
        "Read timed out",
        "ConnectTimeout",
    )
    if any(sign in text for sign in signs):
        return (
            "The package index cannot be reached: the first run needs the network (or a mirror of "
            "PyPI, named by PIP_INDEX_URL). "
        )
    return ""


def _warn_about_space(path: Path) -> None:
    place = next(parent for parent in (path, *path.parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < NEEDED_GIGABYTES:
        print(
            f"Only {free:.1f} GB are free on this disk; PyTorch with CUDA takes about 6 GB.",
            flush=True,
        )
