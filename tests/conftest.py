"""What all tests share: threads, hypothesis, and what happens to a test whose needs are not met.

A test needs detectron2 when it is in one of ``NEEDS_DETECTRON2``, when its module imports
detectron2 at the top, or when it carries the marker ``detectron2``. Without detectron2 it is
reported as skipped; with ``FREQFUSION_REQUIRE_DETECTRON2=1`` the absence is an error.
"""

from __future__ import annotations

import ast
import importlib.util
import logging
import os
import textwrap
from pathlib import Path
from typing import NoReturn

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: one thread for each worker
    for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent
NEEDS_DETECTRON2 = ("modeling", "engine", "evaluation", "configs")
REQUIRED = os.environ.get("FREQFUSION_REQUIRE_DETECTRON2", "") not in ("", "0")
HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None
ABSENT = "detectron2 is not installed"
NOTE = (
    "NOTE: detectron2 is not installed, so the tests that need it were skipped: they say nothing. "
    "To install it: make install (with a network), or make install DETECTRON2=<folder, wheel or "
    "URL>. python -m freqfusion.tools.doctor tells more, and FREQFUSION_REQUIRE_DETECTRON2=1 makes "
    "this an error."
)
MAX_WORKERS = 8

# Detectron2's handlers keep the stream that a test had when they were made, which is closed later;
# their complaints would get into the stderr of other tests.
logging.raiseExceptions = False

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True
)
hypothesis.settings.register_profile(
    "fast", hypothesis.settings.get_profile("default"), max_examples=10
)
hypothesis.settings.load_profile("default")


def available_cpus(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Count the CPUs that this process may use, also inside a container with a quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return max(1, min(cpus, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cpus


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return min(available_cpus(), MAX_WORKERS)


def pytest_configure() -> None:
    if REQUIRED and not HAS_DETECTRON2:
        raise pytest.UsageError(f"{ABSENT}, and FREQFUSION_REQUIRE_DETECTRON2 is set")


def pytest_report_header() -> str:
    state = "installed" if HAS_DETECTRON2 else "not installed; what needs it is skipped"
    return f"detectron2: {state}"


def needs_detectron2(module: Path) -> bool:
    """Say whether a test module needs detectron2, without importing it."""
    inside = module.relative_to(ROOT).parts[:-1] if module.is_relative_to(ROOT) else ()
    if set(inside) & set(NEEDS_DETECTRON2):
        return True
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        if any(name.partition(".")[0] == "detectron2" for name in names):
            return True
    return False


class SkippedModule(pytest.Module):
    """A test module that is not imported, only reported."""

    def collect(self) -> NoReturn:
        raise pytest.skip.Exception(ABSENT, allow_module_level=True)


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    if HAS_DETECTRON2 or not needs_detectron2(module_path):
        return None
    return SkippedModule.from_parent(parent, path=module_path)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not HAS_DETECTRON2 and item.get_closest_marker("detectron2"):
            item.add_marker(pytest.mark.skip(reason=ABSENT))
        if item.get_closest_marker("gpu") and not has_cuda():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def heard_loggers() -> None:
    """Let ``caplog`` hear what a run of an earlier test in this process has silenced."""
    for name in ("detectron2", "fvcore", "freqfusion"):
        logging.getLogger(name).propagate = True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not HAS_DETECTRON2:
        terminalreporter.section("detectron2 is missing")
        terminalreporter.write_line(textwrap.fill(NOTE, width=100, break_on_hyphens=False))
