"""One line of the doctor's report, and the commands that mend things."""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
from dataclasses import dataclass
from typing import Literal

from freqfusion.tools._doctor.facts import Facts
from freqfusion.tools._doctor.requirements import Pin

Status = Literal["ok", "missing", "mismatch", "broken"]

# These three must be resolved together, or pip undoes one pin to satisfy another.
FOUNDATION = ("torch", "torchvision", "setuptools")


@dataclass(frozen=True)
class Check:
    """One line of the report.

    ``found`` is the version or the place; ``reason`` and ``remedy`` (a shell command or a sentence)
    are empty where all is well. Only a ``required`` check decides on the exit status; what is
    ``optional`` may well be absent.
    """

    name: str
    status: Status
    found: str = ""
    reason: str = ""
    remedy: str = ""
    required: bool = False
    optional: bool = False


def pip_command(facts: Facts, *arguments: str) -> str:
    """Return a pip command for the running interpreter, quoted for the shell."""
    return shlex.join([facts.executable, "-m", "pip", "install", *arguments])


def install_command(facts: Facts, pins: dict[str, Pin], name: str, *, force: bool = False) -> str:
    """Return the command that brings a package to the version that is declared for it.

    A missing package comes together with what else is missing of the same extra.
    """
    if name in FOUNDATION:
        names = [item for item in FOUNDATION if item in pins]
    elif name in pins and name not in facts.packages:
        names = missing_of(facts, pins, pins[name].extra)
    else:
        names = [name]
    requirements = [pins[item].text if item in pins else item for item in names]
    if "detectron2" in names:
        options = ["--no-build-isolation"]
        if force:  # a wheel in pip's cache may be the very one that does not fit
            options += ["--force-reinstall", "--no-deps", "--no-cache-dir"]
    else:
        options = ["--force-reinstall"] if force else []
    return pip_command(facts, *options, *requirements)


def system_install(package: str) -> str:
    """Return the command that installs a package of the operating system."""
    if platform.system() == "Darwin":
        return "xcode-select --install"
    names = {"python-dev": f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"}
    if shutil.which("dnf"):
        names = {"g++": "gcc-c++", "python-dev": "python3-devel"}
        return f"sudo dnf install {names.get(package, package)}"
    return f"sudo apt-get install {names.get(package, package)}"


def missing_of(facts: Facts, pins: dict[str, Pin], extra: str) -> list[str]:
    """List what is missing of an extra, but for the packages that are resolved together."""
    return [
        name
        for name, pin in pins.items()
        if pin.extra == extra and name not in facts.packages and name not in FOUNDATION
    ]


def is_required(facts: Facts, pin: Pin | None) -> bool:
    """Say whether a package must be there: the extra ``detectron2`` only where it is demanded."""
    if pin is None:
        return False
    return not pin.extra or (pin.extra == "detectron2" and facts.detectron2_required)
