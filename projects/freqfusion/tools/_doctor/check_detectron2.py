"""Judge the installation of detectron2."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from freqfusion.tools._doctor.check import Check, install_command, is_required
from freqfusion.tools._doctor.facts import Facts, Package
from freqfusion.tools._doctor.requirements import Pin


def check_detectron2(facts: Facts, pins: dict[str, Pin]) -> Check:
    """Judge detectron2: is it there, at the pinned commit, does it load, also its compiled part."""
    pin = pins.get("detectron2")
    required = is_required(facts, pin)
    package = facts.packages.get("detectron2")
    probe = facts.probes.get("detectron2")
    install = install_command(facts, pins, "detectron2")
    mend = install_command(facts, pins, "detectron2", force=True)
    path = str(probe.facts.get("path", "")) if probe else ""
    if package is None:
        if path:
            reason = f"it is imported from {path}, but not installed"
            return Check("detectron2", "mismatch", path, reason, install, required)
        reason = "freqfusion.layers, metrics and analysis work without it"
        return Check("detectron2", "missing", "", reason, install, required, optional=not required)
    found = f"{package.version} ({describe_origin(package)})"
    if probe is not None and probe.error:
        return Check(
            "detectron2", "broken", found, probe.error, import_remedy(facts, pins), required
        )
    if probe is not None and probe.facts.get("error"):
        reason = f"built against another PyTorch: {probe.facts['error']}"
        return Check("detectron2", "broken", found, reason, mend, required)
    wanted, commit = pinned_commit(pin), installed_commit(package)
    if wanted and commit and commit != wanted:
        reason = f"freqfusion is tested with commit {wanted}"
        return Check("detectron2", "mismatch", found, reason, mend, required)
    compiled = probe.facts.get("compiled") if probe else None
    part = f"_C built with {compiled}" if compiled else "without its compiled part"
    return Check("detectron2", "ok", f"{found}, {part}", required=required)


def import_remedy(facts: Facts, pins: dict[str, Pin]) -> str:
    """Return the command for a detectron2 that cannot be imported: what it lacks, or itself."""
    probe = facts.probes["detectron2"]
    lacking = re.search(r"No module named '([\w.]+)'", probe.error)
    if lacking and lacking.group(1).partition(".")[0] != "detectron2":
        modules = {"cv2": "opencv-python-headless", "PIL": "pillow", "pkg_resources": "setuptools"}
        module = lacking.group(1).partition(".")[0]
        return install_command(facts, pins, modules.get(module, module))
    return install_command(facts, pins, "detectron2", force=True)


def pinned_commit(pin: Pin | None) -> str:
    """Return the commit that the declared URL names."""
    match = re.search(r"@([0-9a-f]{40})\b", pin.text if pin else "")
    return match.group(1) if match else ""


def installed_commit(package: Package) -> str:
    """Return the commit that pip installed, or that of the folder; empty where it is unknown."""
    commit = str(package.origin.get("vcs_info", {}).get("commit_id", ""))
    url = urlsplit(str(package.origin.get("url", "")))
    if commit or "dir_info" not in package.origin or shutil.which("git") is None:
        return commit
    folder = url2pathname(url.path)
    answer = subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    inside = (Path(folder) / ".git").exists()
    return answer.stdout.strip() if inside and answer.returncode == 0 else ""


def describe_origin(package: Package) -> str:
    """Say in a few words where pip got a package from."""
    commit = installed_commit(package)
    if commit:
        return f"commit {commit[:12]}"
    url = str(package.origin.get("url", ""))
    return f"from {url}" if url else "origin unknown"
