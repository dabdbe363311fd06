"""Install detectron2 if it can be had, and say clearly what happened if it cannot."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from dataclasses import dataclass
from typing import Literal

from bootstrapping.progress import Outcome, Progress
from bootstrapping.source import FIRST_PROBE_SECONDS, QUIET_GIT, Source, is_reachable
from bootstrapping.venv import Environment

# Exit status of the check below when the compiled part of detectron2 does not load. It is loaded by
# its file, because importing detectron2 would need its other requirements.
BROKEN = 3
CHECK = f"""
import importlib.util, pathlib, sys, torch
try:
    spec = importlib.util.find_spec("detectron2")
    files = sorted(pathlib.Path(spec.submodule_search_locations[0]).glob("_C.*"))
    if not files:
        raise ImportError("it has none")
    spec = importlib.util.spec_from_file_location("detectron2._C", files[0])
    importlib.util.module_from_spec(spec)
except ImportError as error:
    print(error)
    sys.exit({BROKEN})
"""

# What pip's output says of a failed download.
_DOWNLOAD_FAILURES = re.compile(
    r"git (version|clone|fetch|checkout|rev-parse|submodule)\b.*did not run successfully"
    r"|fatal: (unable to access|could not read|repository|transport)"
    r"|Could not (resolve host|install packages due to an OSError|find a version)"
    r"|NewConnectionError|ReadTimeoutError|ConnectTimeoutError|HTTP error \d+"
    r"|Cannot find command 'git'"
)
# What the compiler's output means.
_COMPILER = r"(g\+\+|gcc|c\+\+|cc|clang|clang\+\+)\W{0,3}( failed)?:? "
_BUILD_HINTS = {
    _COMPILER
    + "(not found|No such file)|compiler .* not found|No such file.*'(g|c|clang)\\+\\+'": (
        "there is no C++ compiler (Debian and Ubuntu: sudo apt install g++)"
    ),
    r"Python\.h: No such file": (
        "Python's headers are missing (Debian and Ubuntu: sudo apt install python3-dev)"
    ),
    r"detected CUDA version.*mismatches": (
        "the CUDA toolkit on the PATH is not PyTorch's (try CUDA_VISIBLE_DEVICES= make install)"
    ),
    r"\bKilled\b|out of memory": "the compiler ran out of memory (try MAX_JOBS=1 make install)",
    r"No space left on device": "the disk is full",
}


@dataclass(frozen=True)
class Problem:
    """Why detectron2 is absent."""

    kind: Literal["download", "build"]
    text: str


def install_detectron2(
    environment: Environment, source: Source, progress: Progress
) -> Problem | None:
    """Install from ``source``; return ``None`` on success and the reason otherwise.

    A wheel from pip's cache may have been compiled against another PyTorch: when its compiled part
    does not load, it is built anew.
    """
    env = dict(QUIET_GIT)
    reachable = is_reachable(source, FIRST_PROBE_SECONDS)
    if not reachable:
        progress.note("the source does not answer; looking in pip's cache")
        env["GIT_ALLOW_PROTOCOL"] = (
            "none"  # no download: git gives up at once instead of after minutes
        )
    command = environment.pip(
        "install", "--no-build-isolation", "--no-deps", "--force-reinstall", source.argument
    )
    outcome = progress.run(command, env)
    if outcome.returncode != 0:
        return diagnose(outcome, reachable)
    check = [str(environment.python), "-c", CHECK]
    loaded = progress.run(check, quiet=True)
    if loaded.returncode == BROKEN and source.kind != "file" and reachable:
        progress.note("the cached build does not fit this PyTorch; compiling again")
        outcome = progress.run([*command, "--no-cache-dir"], env)
        if outcome.returncode != 0:
            return diagnose(outcome, reachable)
        loaded = progress.run(check, quiet=True)
    if loaded.returncode == BROKEN:
        reason = loaded.tail[-1] if loaded.tail else "no reason given"
        progress.note(f"warning: the compiled part of detectron2 does not load: {reason}")
    return None


def diagnose(outcome: Outcome, reachable: bool) -> Problem:
    """Tell a failed download from a failed build by what pip wrote."""
    if not reachable or _DOWNLOAD_FAILURES.search(outcome.text):
        if shutil.which("git") is None:
            return Problem("download", "git is not installed")
        return Problem("download", "its source cannot be reached")
    for pattern, hint in _BUILD_HINTS.items():
        if re.search(pattern, outcome.text):
            return Problem("build", hint)
    errors = [line.strip() for line in outcome.tail if re.search(r"\berror\b", line, re.IGNORECASE)]
    informative = [
        line for line in errors if not re.search("subprocess-exited|not with pip|Failed", line)
    ]
    return Problem("build", (informative or errors or ["pip gave no reason"])[-1][:300])


def build_tools() -> str:
    """Describe what compiles detectron2, so that a change can be noticed."""
    compiler = os.environ.get("CXX") or "c++"
    found = shutil.which(compiler.split()[0]) or shutil.which("g++") or "none"
    chosen = [
        os.environ.get(name, "")
        for name in ("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "FORCE_CUDA", "MAX_JOBS")
    ]
    return " ".join([found, *chosen]).strip()


def explain(problem: Problem, source: Source, kept: str | None = None) -> str:
    """Return the one paragraph that says what is missing and how to mend it.

    ``kept`` is the version of an earlier detectron2 that is still installed.
    """
    place = source.requirement
    if problem.kind == "download":
        what = (
            f"detectron2 could not be downloaded from {place}: {problem.text}. The next run tries "
            "again as soon as the source answers. Without a network, name a wheel, a folder or "
            "another URL: make install DETECTRON2=/path/to/detectron2."
        )
    else:
        what = (
            f"detectron2 was found at {place} but could not be built: {problem.text}. Once that is "
            "mended, run: make install."
        )
    if kept:
        meanwhile = f"Until then the detectron2 {kept} that was there before stays in use."
    else:
        meanwhile = (
            "Until then freqfusion works without it: freqfusion.layers and the other torch-only "
            "parts run, and the tests that need detectron2 are reported as skipped."
        )
    text = f"NOTE: {what} {meanwhile} FREQFUSION_REQUIRE_DETECTRON2=1 makes this an error."
    return textwrap.fill(text, width=100, break_long_words=False, break_on_hyphens=False)
