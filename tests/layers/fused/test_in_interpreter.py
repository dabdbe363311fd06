"""The Triton kernels on a CPU: interpreted.py in a process of its own.

Whether Triton interprets is settled when the kernels are imported, for the whole process.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILE = Path(__file__).with_name("interpreted.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


def run(marker):
    command = [sys.executable, "-m", "pytest", str(FILE), "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    for name in ("FREQFUSION_KERNELS", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)
    answer = subprocess.run(
        [*command, "-m", marker],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert answer.returncode == 0, answer.stdout[-8000:] + answer.stderr[-2000:]
    found = re.search(r"^(\d+) passed", answer.stdout, re.MULTILINE)
    return int(found[1])


def test_kernels_in_the_interpreter():
    assert run("not slow") > 15


@pytest.mark.slow
def test_whole_grid_in_the_interpreter():
    assert run("slow") > 100
