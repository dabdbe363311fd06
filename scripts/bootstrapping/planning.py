"""Decide which steps an environment still needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bootstrapping.detectron2 import build_tools
from bootstrapping.requirements import Requirements, supports
from bootstrapping.source import Source, is_reachable
from bootstrapping.state import State, fingerprint, load_state, was_interrupted
from bootstrapping.venv import Contents, Environment


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    ``source_chosen`` is the place of detectron2 that the user named, now or in an earlier run.
    """

    root: Path
    python_chosen: bool = False
    source_chosen: str = ""
    source_named_now: bool = False
    required: bool = False
    retry: bool = False
    extras: str = "dev"


@dataclass(frozen=True)
class Plan:
    """The steps to take; ``reason`` tells the user why a whole environment is made anew."""

    create: bool = False
    everything: bool = False
    detectron2: bool = False
    reason: str = ""

    @property
    def steps(self) -> int:
        """How many steps that makes; after each change the project itself is brought up to date."""
        return (
            self.create + self.everything + self.detectron2 + (self.everything or self.detectron2)
        )


@dataclass(frozen=True)
class Target:
    """An environment, and what it is to hold."""

    environment: Environment
    requirements: Requirements
    source: Source
    options: Options
    probe: Callable[[Source], bool] = is_reachable

    def fingerprint(self) -> str:
        """Return a hash of everything that determines the environment but detectron2's source."""
        root = self.options.root
        files = [
            root / "setup.py",
            root / "pyproject.toml",
            root / "projects" / "freqfusion" / "_version.py",
            *(root / "scripts").rglob("*.py"),
        ]
        place = [str(root), str(self.environment.path), self.options.extras]
        return fingerprint(files, [*place, *self.requirements.constraints])

    def plan(self) -> Plan:
        """Compare what is there with what is wanted."""
        path = self.environment.path
        whole = Plan(create=True, everything=True, detectron2=True)
        if not path.exists():
            return whole
        if was_interrupted(path):
            return replace(whole, reason="the last installation was interrupted")
        contents = self.environment.inspect()
        if contents is None:
            return replace(whole, reason="its Python cannot be run or has no pip")
        mismatch = self._python_mismatch(contents)
        if mismatch:
            return replace(whole, reason=mismatch)
        state = load_state(path)
        if state is None:
            return Plan(everything=True, detectron2=True)
        missing = not self._has_detectron2(state, contents)
        changed = state.fingerprint != self.fingerprint() or state.torch != contents.torch
        if changed or contents.freqfusion is None:
            return Plan(everything=True, detectron2=missing)
        return Plan(detectron2=missing and self._worth_trying(state))

    def _python_mismatch(self, contents: Contents) -> str:
        found = ".".join(map(str, contents.python))
        wanted = sys.version_info[:2]
        if self.options.python_chosen and contents.python[:2] != wanted:
            return f"it holds Python {found} and PYTHON names {wanted[0]}.{wanted[1]}"
        if not supports(self.requirements.python, contents.python):
            return f"it holds Python {found}, which is not supported"
        return ""

    def _has_detectron2(self, state: State, contents: Contents) -> bool:
        fits = contents.detectron2 is not None and state.torch == contents.torch
        chosen_before = bool(state.chosen) and not self.options.source_named_now
        wanted = chosen_before or state.source == self.source.identity
        return fits and wanted and state.problem is None

    def _worth_trying(self, state: State) -> bool:
        """Say whether an installation that failed may succeed now; takes seconds at most."""
        if self.options.retry or self.options.required or state.problem is None:
            return True
        if state.source != self.source.identity:
            return True
        if state.problem_kind == "build":
            return state.tools != build_tools()
        return self.probe(self.source)
