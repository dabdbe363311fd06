"""Gather the facts about this machine that the doctor judges; standard library only."""

from __future__ import annotations

import glob
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import freqfusion
from freqfusion.tools._doctor.probes import PROBES, Probe, run_probes

# Packages that are checked alike, by the normalised names of their distributions, in the order of
# the report: before and after what has a check of its own.
FIRST = ("torch", "torchvision", "setuptools", "numpy", "pillow", "matplotlib", "tqdm")
LAST = (
    "fvcore",
    "pycocotools",
    "opencv-python-headless",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "triton",
)
# The packages that are looked up.
PACKAGES = ("freqfusion", *FIRST, "detectron2", *LAST, "ninja", "wheel")
# Another distribution of OpenCV serves as well: all of them install the module cv2.
ALTERNATIVES = {
    "opencv-python-headless": (
        "opencv-python",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    )
}


@dataclass(frozen=True)
class Package:
    """An installed distribution: its name, version, requirements and where pip got it from."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    requires_python: str = ""
    origin: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Everything that the checks look at."""

    python: str
    executable: str
    system: str
    source: str
    packages: dict[str, Package]
    probes: dict[str, Probe]
    compiler: str | None
    git: str | None
    headers: bool
    nvidia: bool
    detectron2_required: bool


def normalise(name: str) -> str:
    """Return a distribution's name as packaging tools compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_package(name: str) -> Package | None:
    """Look a distribution up by its name or that of an alternative."""
    for candidate in (name, *ALTERNATIVES.get(name, ())):
        try:
            found = importlib.metadata.distribution(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
        return Package(
            candidate,
            str(found.metadata["Version"]),
            tuple(found.requires or ()),
            str(found.metadata["Requires-Python"] or ""),
            read_origin(found.read_text("direct_url.json")),
        )
    return None


def read_origin(text: str | None) -> dict[str, Any]:
    """Return what pip recorded on where a package came from (PEP 610); empty for an index."""
    try:
        record = json.loads(text or "{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def find_packages() -> tuple[dict[str, Package], dict[str, Probe]]:
    """Look all packages up; also return an error for each one whose metadata cannot be read."""
    packages, unreadable = {}, {}
    for name in PACKAGES:
        try:
            found = find_package(name)
        except Exception as error:  # damaged metadata can raise anything
            found = Package(name, "unknown")
            unreadable[name] = Probe(error=f"its metadata cannot be read: {error!r}")
        if found is not None:
            packages[name] = found
    return packages, unreadable


def first_line(command: list[str]) -> str | None:
    """Return the first line that a command prints, ``None`` where it cannot be run."""
    if shutil.which(command[0]) is None:
        return None
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.strip().splitlines()
    return lines[0].strip() if answer.returncode == 0 and lines else None


def find_compiler() -> str | None:
    """Return the version line of the C++ compiler that an extension would be built with."""
    chosen = os.environ.get("CXX", "").split()
    for command in (chosen, ["c++"], ["g++"], ["clang++"]):
        line = first_line([*command, "--version"]) if command else None
        if line:
            return line
    return None


def has_nvidia_gpu() -> bool:
    """Say whether the machine shows an NVIDIA GPU, whatever PyTorch thinks."""
    return bool(glob.glob("/dev/nvidia[0-9]*")) or first_line(["nvidia-smi", "-L"]) is not None


def gather() -> Facts:
    """Look at the machine; takes some seconds, because the packages are tried out."""
    packages, unreadable = find_packages()
    wanted = [name for name in PROBES if name in packages or name == "detectron2"]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return Facts(
        python=platform.python_version(),
        executable=sys.executable,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        source=str(Path(freqfusion.__file__).resolve().parent),
        packages=packages,
        probes=run_probes(wanted) | unreadable,
        compiler=find_compiler(),
        git=first_line(["git", "--version"]),
        headers=headers.is_file(),
        nvidia=has_nvidia_gpu(),
        detectron2_required=os.environ.get("FREQFUSION_REQUIRE_DETECTRON2", "") not in ("", "0"),
    )
