"""Judge whether PyTorch can use the GPU that the machine has."""

from __future__ import annotations

import re

from freqfusion.tools._doctor.check import FOUNDATION, Check, pip_command
from freqfusion.tools._doctor.facts import Facts
from freqfusion.tools._doctor.requirements import Pin


def check_gpu(facts: Facts, pins: dict[str, Pin]) -> Check:
    """Judge whether PyTorch can use the GPU that the machine has."""
    probe = facts.probes.get("torch")
    torch = probe.facts if probe else {}
    devices = torch.get("devices", [])
    if devices:
        names = ", ".join(str(device[0]) for device in devices)
        arches = torch.get("arches", [])
        unsupported = [device for device in devices if arches and not runs_on(device[1:], arches)]
        if unsupported:
            reason = f"this torch has no code for {unsupported[0][0]}: {', '.join(arches)}"
            return Check("GPU", "mismatch", names, reason, "see https://pytorch.org/get-started")
        return Check("GPU", "ok", f"{names}, CUDA {torch.get('cuda_build')}")
    if not facts.nvidia or not torch:
        return Check("GPU", "ok", "none")
    if torch.get("cuda_build") is None:
        pinned = [pins[name].text for name in FOUNDATION if name in pins]
        arguments = ["--force-reinstall", "--index-url", "https://pypi.org/simple", *pinned]
        reason = f"torch {torch.get('version')} is built for the CPU only"
        return Check("GPU", "mismatch", "NVIDIA", reason, pip_command(facts, *arguments))
    reason = torch.get("cuda_error") or "torch sees no CUDA device"
    remedy = f"update the NVIDIA driver to one for CUDA {torch['cuda_build']}"
    return Check("GPU", "mismatch", "NVIDIA", str(reason), remedy)


def runs_on(capability: list[int], arches: list[str]) -> bool:
    """Say whether one of torch's architectures (``sm_90``, ``compute_90``) runs on a device."""
    major, minor = capability
    for arch in arches:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch)
        if match is None:
            continue
        kind, built = match.group(1), (int(match.group(2)), int(match.group(3)))
        if kind == "compute" and built <= (major, minor):
            return True
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
    return False
