"""What becomes of tests that need detectron2 where it is absent, tried in a small suite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# Read by the interpreter at its start: it makes detectron2 invisible.
HIDE = """
import importlib.util
_find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "detectron2" else _find(name, *rest)
"""
FILES = {
    "tests/modeling/test_whole_folder.py": "import a_part_of_the_package\ndef test(): pass",
    "tests/data/test_by_import.py": "from detectron2.data import x\ndef test(): pass",
    "tests/data/test_by_marker.py": (
        "import pytest\n"
        "@pytest.mark.detectron2\n"
        "def test_needs_it(): pass\n"
        "def test_needs_nothing(): pass"
    ),
    # Detectron2's setup_logger takes loggers off the root logger, where caplog listens.
    "tests/data/test_logs.py": (
        "import logging\n"
        "LOGGER = logging.getLogger('freqfusion')\n"
        "def test_silences(): LOGGER.propagate = False\n"
        "def test_hears(caplog):\n"
        "    LOGGER.warning('a word')\n"
        "    assert 'a word' in caplog.text\n"
    ),
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite with our conftest, in which detectron2 cannot be found."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    shutil.copy(TESTS.parent / "pyproject.toml", tmp_path)
    (tmp_path / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    return tmp_path


def run_suite(suite: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "FREQFUSION_"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider"],
        cwd=suite,
        env={**env, "PYTHONPATH": str(suite), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_detectron2_they_are_skipped_with_a_reason(suite: Path) -> None:
    """By folder, by import and by marker; the paragraph comes before pytest's last line."""
    answer = run_suite(suite)
    assert answer.returncode == 0, answer.stdout
    lines = answer.stdout.strip().splitlines()
    assert "3 passed, 3 skipped" in lines[-1]
    assert "detectron2 is not installed" in answer.stdout.partition("short test summary")[2]
    assert "make install DETECTRON2=" in answer.stdout


def test_required_detectron2_stops_the_run(suite: Path) -> None:
    answer = run_suite(suite, FREQFUSION_REQUIRE_DETECTRON2="1")
    assert answer.returncode == pytest.ExitCode.USAGE_ERROR
    assert "FREQFUSION_REQUIRE_DETECTRON2 is set" in answer.stderr
