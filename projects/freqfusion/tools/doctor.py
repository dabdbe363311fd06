"""Print what is installed, what is missing or does not fit, and the commands that fix it.

``python -m freqfusion.tools.doctor``; the exit code is 0 where everything that is required is fine,
1 otherwise. Required are FreqFusion's layers and what they need; Detectron2 only where
``FREQFUSION_REQUIRE_DETECTRON2=1`` is set. Whatever can fail runs in a process of its own, so that
a broken PyTorch is one line of the report.
"""

import argparse
import glob
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
PACKAGE_OF = {"cv2": "opencv-python-headless", "PIL": "pillow", "pkg_resources": "setuptools"}
GPU = "import torch as t; t.ones(1, device='cuda').sum().item(); print(t.cuda.get_device_name())"
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
    """One line of the report; ``remedy`` is what fixes it, unless that is to install ``name``."""

    name: str
    status: str  # ok, missing, mismatch or broken
    found: str = ""
    reason: str = ""
    remedy: str = ""
    need: str = "required"  # or wanted, optional


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


def check_installation() -> list[Check]:
    """Check the interpreter and the installed metadata against this package."""
    root = Path(freqfusion.__file__).resolve().parents[2]
    version, python = installed_version("freqfusion"), platform.python_version()
    wanted = importlib.metadata.metadata("freqfusion")["Requires-Python"] if version else ""
    checks = [Check("Python", "ok", f"{python} ({sys.executable})")]
    if not Requirement(f"python{wanted}").specifier.contains(python):
        remedy = "make install PYTHON=/path/to/python3.11"
        checks = [Check("Python", "mismatch", python, f"needs {wanted}", remedy)]
    found = f"{freqfusion.__version__} ({root})"
    if version == freqfusion.__version__:
        return [*checks, Check("freqfusion", "ok", found)]
    reason = f"the installed metadata are of version {version}" if version else "not installed"
    remedy = pip("--no-build-isolation", "-e", str(root))
    return [*checks, Check("freqfusion", "mismatch", found, reason, remedy)]


def check_package(name: str, requirement: Requirement, need: str) -> Check:
    """Check a package against the declared range and try it."""
    version = installed_version(name)
    found, error = attempt(TRIALS[name]) if name in TRIALS else ("", "")
    if not version and (error or name not in TRIALS):
        return Check(name, "missing", need=need)
    if version and not requirement.specifier.contains(version, prereleases=True):
        reason = f"freqfusion needs {requirement.specifier}"
        if name == "setuptools":
            reason += ", since later ones drop pkg_resources, which Detectron2 imports"
        return Check(name, "mismatch", version, reason, need=need)
    lacking = re.search(r"No module named '(\w+)", error)
    module = PACKAGE_OF.get(lacking[1], lacking[1]) if lacking else name
    if error and module != name:
        return Check(name, "broken", version, error, pip(module), need)
    if "undefined symbol" in error or "torchvision::nms" in error:
        error = f"it was built for another PyTorch: {error}"
    status = "broken" if error else "ok"
    return Check(name, status, f"{version or 'of another name'} {found}".rstrip(), error, need=need)


def check_gpu() -> Check:
    """Check whether PyTorch computes on the GPU that the machine has."""
    name, error = attempt(GPU)
    if not error:
        return Check("GPU", "ok", name)
    if not glob.glob("/dev/nvidia[0-9]*") and not shutil.which("nvidia-smi"):
        return Check("GPU", "ok", "none")
    remedy = "update the NVIDIA driver to one for the CUDA of this PyTorch"
    if "not compiled with CUDA" in error:
        (remedy,) = install(["torch"], "--force-reinstall", "--index-url=https://pypi.org/simple")
    elif "no kernel image" in error:
        remedy = "install a PyTorch with code for this GPU: https://pytorch.org/get-started"
    return Check("GPU", "mismatch", "NVIDIA", error, remedy, "wanted")


def check_layers() -> Check:
    """Run FreqFusion once and say which kernels computed it."""
    found, error = attempt(LAYERS)
    if error:
        remedy = "unset FREQFUSION_KERNELS" if "FREQFUSION_KERNELS" in error else ""
        return Check("layers", "broken", "", error, remedy)
    choice = os.environ.get("FREQFUSION_KERNELS") or "auto"
    return Check("layers", "ok", f"{found} (FREQFUSION_KERNELS={choice})")


def diagnose() -> list[Check]:
    """Run all checks."""
    checks = check_installation()
    needs = {"": "required"}
    if os.environ.get("FREQFUSION_REQUIRE_DETECTRON2", "") not in ("", "0"):
        needs["detectron2"] = "required"
    elif installed_version("detectron2"):
        needs["detectron2"] = "wanted"
    for name, (item, extra) in declared_requirements().items():
        checks.append(check_package(name, item, needs.get(extra, "optional")))
    return [*checks, check_gpu(), check_layers()]


def install(names: Sequence[str], *options: str) -> list[str]:
    """Return the pip commands that bring packages to their declared versions, Detectron2 last."""
    declared = {name: str(item) for name, (item, _) in declared_requirements().items()}
    if set(names) & set(FOUNDATION):
        names = list(dict.fromkeys([*FOUNDATION, *names]))
    texts = [declared.get(name, name) for name in names if name != "detectron2"]
    found = [pip(*options, *texts)] if texts else []
    if "detectron2" in names:  # a wheel in pip's cache may be the very one that does not fit
        rebuild = [*options, "--no-deps", "--no-cache-dir"] if options else []
        found.append(pip("--no-build-isolation", *rebuild, declared["detectron2"]))
    return found


def pip(*arguments: str) -> str:
    """Return a pip command for the running interpreter, quoted for the shell."""
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def render(checks: Sequence[Check]) -> str:
    """Return the report as text: a line for each check, then the commands."""
    width, lines = max(len(check.name) for check in checks), []
    for one in checks:
        status = "optional" if (one.need, one.status) == ("optional", "missing") else one.status
        reason = f"({one.reason})" if one.reason else ""
        lines.append(f"{status:<9} {one.name:<{width}}  {one.found} {reason}".rstrip())
    for title, needs in (("fix it", ("required", "wanted")), ("add what is optional", "optional")):
        wrong = [one for one in checks if one.status != "ok" and one.need in needs]
        packages = [one for one in wrong if not one.remedy and one.name != "layers"]
        found = [one.remedy for one in wrong if one.remedy]
        found += install([one.name for one in packages if one.status != "broken"])
        broken = [one.name for one in packages if one.status == "broken"]
        found += install(broken, "--force-reinstall")
        if found:
            lines += ["", f"To {title}:", *(f"  {command}" for command in dict.fromkeys(found))]
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
