"""Print what is installed, what is missing or does not fit, and the commands that fix it.

``python -m freqfusion.tools.doctor``; the exit code is 0 where everything that is required is fine,
1 otherwise. Required are FreqFusion's layers and what they need; Detectron2 only where
``FREQFUSION_REQUIRE_DETECTRON2=1`` is set. Whatever can fail runs in a process of its own, so that
a broken PyTorch is one line of the report.
"""

import argparse
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import freqfusion

try:
    from packaging.requirements import Requirement
except ImportError:  # it comes with matplotlib, which may be what is missing
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]

# Installed in one command, or pip undoes one range to satisfy another.
FOUNDATION = ("torch", "torchvision", "setuptools")
TRIALS = {
    "torch": "import torch; print('CUDA', torch.version.cuda) if torch.version.cuda else None",
    "torchvision": "import torch, torchvision as v; v.ops.nms(torch.ones(1, 4), torch.ones(1), 1)",
    "setuptools": "import pkg_resources",
    "numpy": "import numpy",
    "pillow": "import PIL.Image",
    "matplotlib": "import matplotlib.figure",
    "opencv-python-headless": "import cv2",
    "pycocotools": "import pycocotools.mask",
    "detectron2": "import detectron2 as d, glob; print(d.__path__[0])\n"
    "if glob.glob(d.__path__[0] + '/_C.*'):\n  from detectron2 import _C\n"
    "from detectron2 import model_zoo, modeling",
}
LAYERS = """
import torch
from freqfusion.layers import FreqFusion
from freqfusion.layers.neighbourhood.choice import choose_form
device = "cuda" if torch.cuda.is_available() else "cpu"
fine, coarse = torch.ones(1, 8, 8, 8, device=device), torch.ones(1, 8, 4, 4, device=device)
FreqFusion(hr_channels=8, lr_channels=8).to(device)(hr_feat=fine, lr_feat=coarse)
form = choose_form(fine).__name__.rpartition(".")[2]
names = {"compiled": "compiled operators", "fused": "Triton kernels", "plain": "plain torch"}
print(names[form], "on", device)
if form == "plain" and device == "cpu":
    from freqfusion.layers.neighbourhood.compiled import problem
    print(problem())
"""
ENVIRONMENT = """
from detectron2.utils.collect_env import collect_env_info
print(collect_env_info().partition("PyTorch built with")[0])
"""


class Check(NamedTuple):
    """One line of the report; ``remedy`` is the command that mends it."""

    name: str
    status: str  # ok, missing, mismatch or broken
    detail: str = ""
    remedy: str = ""
    need: str = "required"  # or wanted, where what needs it is installed, or optional


def attempt(code: str, timeout: float = 180.0) -> tuple[str, str]:
    """Run code in a process of its own; return what it printed, and its error in one line."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"did not finish within {timeout:g} s"
    if ended.returncode == 0:
        return ended.stdout.strip(), ""
    errors = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b.*$", ended.stderr, re.MULTILINE)
    return "", errors[-1] if errors else f"the interpreter ended with status {ended.returncode}"


def declared_requirements() -> dict[str, tuple[Requirement, str]]:
    """Return what freqfusion requires by package: a requirement and its extra, or ""."""
    found: dict[str, tuple[Requirement, str]] = {}
    lines = importlib.metadata.requires("freqfusion") if installed_version("freqfusion") else ()
    for item in map(Requirement, lines or ()):
        match = re.search(r"extra == \"(.+?)\"", str(item.marker))
        extra = match[1] if match else ""
        if extra != "dev" and (item.marker is None or item.marker.evaluate({"extra": extra})):
            item.marker = None
            found.setdefault(re.sub(r"[-_.]+", "-", item.name).lower(), (item, extra))
    return found


def installed_version(name: str) -> str:
    """Return the version of an installed distribution; empty where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check_installation() -> Check:
    """Check the installed metadata, in which the requirements stand, against this package."""
    root = Path(freqfusion.__file__).resolve().parents[2]
    version = installed_version("freqfusion")
    found = f"{freqfusion.__version__} ({root}), Python {platform.python_version()}"
    if version == freqfusion.__version__:
        return Check("freqfusion", "ok", found)
    reason = f"the installed metadata are of version {version}" if version else "not installed"
    remedy = pip("--no-build-isolation", "-e", str(root))
    return Check("freqfusion", "mismatch", f"{found}: {reason}", remedy)


def check_package(name: str, declared: dict[str, tuple[Requirement, str]]) -> Check:
    """Check a package against the declared range and try it."""
    (requirement, extra), version = declared[name], installed_version(name)
    found, error = attempt(TRIALS[name]) if name in TRIALS else ("", "")
    demanded = os.environ.get("FREQFUSION_REQUIRE_DETECTRON2", "") not in ("", "0")
    need = "required"
    if extra and not (extra == "detectron2" and demanded):
        need = "wanted" if installed_version(extra) else "optional"
    if not version and (error or name not in TRIALS):
        return Check(name, "missing", "", install(name, declared), need)
    if version and not requirement.specifier.contains(version, prereleases=True):
        detail = f"{version}, but freqfusion needs {requirement.specifier}"
        if name == "setuptools":
            detail += ", since later ones drop pkg_resources, which Detectron2 imports"
        return Check(name, "mismatch", detail, install(name, declared), need)
    if not error:
        detail = f"{version or 'of another name'} {found}".rstrip()
        return Check(name, "ok", detail, need=need)
    if "undefined symbol" in error or "torchvision::nms" in error:
        error = f"it was built for another PyTorch: {error}"
    remedy = install(name, declared, "--force-reinstall")
    return Check(name, "broken", f"{version}: {error}", remedy, need)


def install(name: str, declared: dict[str, tuple[Requirement, str]], *options: str) -> str:
    """Return the pip command that brings a package to its declared version."""
    if name == "detectron2":  # a wheel in pip's cache may be the very one that does not fit
        options = (
            "--no-build-isolation",
            *options,
            *(["--no-deps", "--no-cache-dir"] * bool(options)),
        )
    names = FOUNDATION if name in FOUNDATION else (name,)
    return pip(*options, *(str(declared[one][0]) for one in names if one in declared))


def check_layers() -> Check:
    """Run FreqFusion once and say which kernels computed it."""
    found, error = attempt(LAYERS)
    if error:
        remedy = "unset FREQFUSION_KERNELS" if "FREQFUSION_KERNELS" in error else ""
        return Check("layers", "broken", error, remedy)
    detail = f"{found} (FREQFUSION_KERNELS={os.environ.get('FREQFUSION_KERNELS') or 'auto'})"
    if found.endswith("cpu") and shutil.which("nvidia-smi"):
        detail += ", though there is an NVIDIA GPU"
        remedy = "update its driver, or install a PyTorch for it: https://pytorch.org/get-started"
        return Check("layers", "mismatch", detail, remedy, "wanted")
    return Check("layers", "ok", detail)


def diagnose() -> list[Check]:
    """Run all checks."""
    declared = declared_requirements()
    packages = [check_package(name, declared) for name in declared]
    return [check_installation(), *packages, check_layers()]


def pip(*arguments: str) -> str:
    """Return a pip command for the running interpreter, quoted for the shell."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def render(checks: Sequence[Check]) -> str:
    """Return the report as text: a line for each check, then the commands."""
    width = max(len(check.name) for check in checks)
    lines = [f"{one.status:<9} {one.name:<{width}}  {one.detail}".rstrip() for one in checks]
    for purpose, needs in (
        ("fix it", ("required", "wanted")),
        ("add what is optional", "optional"),
    ):
        remedies = dict.fromkeys(one.remedy for one in checks if one.remedy and one.need in needs)
        if remedies:
            lines += ["", f"To {purpose}:", *(f"  {remedy}" for remedy in remedies)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m freqfusion.tools.doctor",
        description="Say what is installed, what is missing or does not fit, and what fixes it.",
    )
    parser.parse_args(arguments)
    checks = diagnose()
    fine = all(check.status == "ok" for check in checks if check.need == "required")
    print(attempt(ENVIRONMENT)[0] or platform.platform(), render(checks), sep="\n\n")
    print(f"\n{'Everything' if fine else 'Not everything'} that is required is fine.")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
