"""Try things out in a process of their own, so that whatever goes wrong there can be reported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

TIMEOUT_SECONDS = 180.0

TORCH = """
import torch
facts = {"version": torch.__version__, "cuda_build": torch.version.cuda, "devices": []}
try:
    torch.cuda.init()
except Exception as error:
    facts["cuda_error"] = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
if torch.cuda.is_available():
    facts["arches"] = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        facts["devices"].append([name, *torch.cuda.get_device_capability(index)])
"""

TORCHVISION = """
import torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
torchvision.ops.nms(boxes, torch.ones(1), 0.5)
facts = {"version": torchvision.__version__}
"""

DETECTRON2 = """
import detectron2
facts = {"path": list(detectron2.__path__)[0], "compiled": None}
import glob, os
if glob.glob(os.path.join(facts["path"], "_C.*")):
    try:
        from detectron2 import _C
        facts["compiled"] = _C.get_compiler_version()
        facts["cuda"] = _C.get_cuda_version() if _C.has_cuda() else None
    except ImportError as error:
        facts["error"] = str(error)
from detectron2.config import get_cfg
from detectron2.modeling import build_model
"""


def importing(module: str) -> str:
    """Return the code of a probe that imports a module."""
    return f"import {module}\nfacts = {{}}"


PROBES = {
    "torch": TORCH,
    "torchvision": TORCHVISION,
    "detectron2": DETECTRON2,
    "numpy": importing("numpy"),
    "pillow": importing("PIL.Image"),
    "matplotlib": importing("matplotlib"),
    "opencv-python-headless": importing("cv2"),
    "pycocotools": importing("pycocotools.mask"),
    "fvcore": importing("fvcore.common.registry"),
    "setuptools": importing("pkg_resources"),
}


@dataclass(frozen=True)
class Probe:
    """What came of a trial: ``facts`` where it went well, otherwise one line of ``error``."""

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def run_probe(code: str, timeout: float = TIMEOUT_SECONDS) -> Probe:
    """Run code that sets ``facts`` in a fresh interpreter; never raises."""
    program = (
        f"import json, warnings\nwarnings.simplefilter('ignore')\n{code}\nprint(json.dumps(facts))"
    )
    try:
        answer = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe(error=f"did not finish within {timeout:.0f} s")
    except OSError as error:
        return Probe(error=str(error))
    return read_answer(answer.returncode, answer.stdout, answer.stderr)


def read_answer(returncode: int, stdout: str, stderr: str) -> Probe:
    """Interpret how a probe's process ended."""
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return Probe(error=f"the interpreter was ended by {name}")
    lines = stdout.strip().splitlines()
    if returncode == 0 and lines:
        try:
            facts = json.loads(lines[-1])
        except ValueError:
            return Probe(error=f"gave an answer that cannot be read: {lines[-1][:200]}")
        return Probe(facts=facts)
    reasons = stderr.strip().splitlines() or [f"ended with status {returncode}"]
    return Probe(error=reasons[-1][:300])


def run_probes(names: list[str]) -> dict[str, Probe]:
    """Run several probes side by side."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(names, pool.map(lambda name: run_probe(PROBES[name]), names), strict=True))
