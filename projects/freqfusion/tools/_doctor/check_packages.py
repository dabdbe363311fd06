"""Judge the interpreter, freqfusion itself, the packages that it needs and the system's tools."""

from __future__ import annotations

from pathlib import Path

import freqfusion
from freqfusion.tools._doctor.check import (
    Check,
    install_command,
    is_required,
    pip_command,
    system_install,
)
from freqfusion.tools._doctor.facts import Facts, Package, normalise
from freqfusion.tools._doctor.requirements import Pin, satisfies, unmet

# Why a version is outside the declared range: package, range, reason.
KNOWN = (
    ("torch", "==2.13.*", "a CPU-only torch 2.13 has no torchvision that loads"),
    ("torchvision", "==0.28.*", "it belongs to torch 2.13, which is left out"),
    ("setuptools", ">=81", "later ones drop pkg_resources, which detectron2.model_zoo imports"),
)
PURPOSE = {
    "timm": "for the backbones from timm",
    "onnx": "for ONNX export",
    "triton": "for torch.compile on a GPU",
}


def check_python(facts: Facts) -> Check:
    """Judge the interpreter."""
    found = f"{facts.python} ({facts.executable})"
    package = facts.packages.get("freqfusion")
    wanted = package.requires_python if package else ""
    if wanted and not satisfies(facts.python, wanted):
        reason = f"freqfusion needs Python {wanted}"
        remedy = "make install PYTHON=/path/to/python3.11"
        return Check("Python", "mismatch", found, reason, remedy, required=True)
    return Check("Python", "ok", found, required=True)


def check_freqfusion(facts: Facts) -> Check:
    """Judge the installation of this package itself."""
    root = Path(facts.source).parent.parent
    here = (root / "setup.py").is_file()
    remedy = pip_command(facts, "--no-build-isolation", "-e", str(root) if here else "freqfusion")
    found = f"{freqfusion.__version__} ({facts.source})"
    package = facts.packages.get("freqfusion")
    if package is None:
        reason = "it is imported from a folder, but not installed, so its requirements are unknown"
        return Check("freqfusion", "missing", found, reason, remedy, required=True)
    if package.version != freqfusion.__version__:
        reason = f"the installed metadata are those of version {package.version}"
        return Check("freqfusion", "mismatch", found, reason, remedy, required=True)
    return Check("freqfusion", "ok", found, required=True)


def check_package(facts: Facts, pins: dict[str, Pin], name: str) -> Check:
    """Judge a package by the declared range, by its own requirements and by a trial."""
    pin = pins.get(name)
    required = is_required(facts, pin)
    unused = not required and (pin is None or bool(pin.extra))
    package = facts.packages.get(name)
    if package is None:
        purpose = PURPOSE.get(name) or (f"for the extra {pin.extra!r}" if pin and pin.extra else "")
        remedy = install_command(facts, pins, name) if pin else ""
        return Check(name, "missing", "", purpose, remedy, required, optional=unused)
    reason = version_problem(package, pin) or "; ".join(requirement_problems(facts, package))
    if reason:
        remedy = install_command(facts, pins, name)
        idle = pin is not None and pin.extra == "detectron2" and "detectron2" not in facts.packages
        return Check(
            name, "mismatch", package.version, reason, remedy, required, optional=unused and idle
        )
    probe = facts.probes.get(name)
    if probe is not None and probe.error:
        remedy = install_command(facts, pins, name, force=True)
        return Check(name, "broken", package.version, probe.error, remedy, required)
    other = "" if package.name == name else f" ({package.name})"
    return Check(name, "ok", package.version + other, required=required)


def version_problem(package: Package, pin: Pin | None) -> str:
    """Say why a version is outside the declared range; empty where it is inside."""
    if pin is None or not pin.specifier or satisfies(package.version, pin.specifier):
        return ""
    hints = [
        text
        for name, bad, text in KNOWN
        if name == normalise(package.name) and satisfies(package.version, bad)
    ]
    return "; ".join([f"freqfusion declares {pin.specifier}", *hints])


def requirement_problems(facts: Facts, package: Package) -> list[str]:
    """List what a package itself wants of the others and does not get."""
    if package.name == "freqfusion":
        return []
    versions = {name: found.version for name, found in facts.packages.items()}
    return [
        f"{package.name} {package.version} wants {wanted}, and {name} {versions[name]} is here"
        for name, wanted in unmet(package.requires, versions)
    ]


def check_tool(facts: Facts, name: str, found: str | None, package: str) -> Check:
    """Judge a program that is only needed while detectron2 is being installed."""
    needed = facts.detectron2_required and "detectron2" not in facts.packages
    if found:
        return Check(name, "ok", found, required=needed)
    reason = "needed to install detectron2"
    return Check(name, "missing", "", reason, system_install(package), required=needed)
