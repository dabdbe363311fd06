"""The virtual environment: is it usable, and what does it run."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

INSPECT = """
import importlib.metadata as metadata, importlib.util as util, json, sys
def version(name):
    try:
        return metadata.version(name)
    except Exception:
        return None
print(json.dumps({
    "python": list(sys.version_info[:3]),
    "venv": sys.prefix != sys.base_prefix,
    "pip": util.find_spec("pip") is not None,
    "torch": version("torch"),
    "detectron2": version("detectron2"),
    "freqfusion": version("freqfusion"),
}))
"""


@dataclass(frozen=True)
class Contents:
    """What a usable environment holds; a version is ``None`` where the package is absent."""

    python: tuple[int, ...]
    torch: str | None
    detectron2: str | None
    freqfusion: str | None


@dataclass(frozen=True)
class Environment:
    """A virtual environment at ``path``, which need not exist yet."""

    path: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.path / "bin" / "python"

    @property
    def log(self) -> Path:
        """The file that the output of the installation goes to."""
        return self.path / "freqfusion-install.log"

    @property
    def constraints(self) -> Path:
        """The file that, where there is one, says which versions pip may install."""
        return self.path / "freqfusion-constraints.txt"

    def pip(self, *arguments: str) -> list[str]:
        """Return a pip command that asks nothing and draws no progress bar."""
        options = ["--disable-pip-version-check", "--no-input"]
        command, *rest = arguments
        extra = ["--progress-bar", "off"] if command == "install" else []
        if command == "install" and self.constraints.exists():
            extra += ["--constraint", str(self.constraints)]
        return [str(self.python), "-m", "pip", *options, command, *extra, *rest]

    def inspect(self) -> Contents | None:
        """Return what is installed, or ``None`` where the environment cannot be used."""
        try:
            answer = subprocess.run(
                [str(self.python), "-I", "-c", INSPECT],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            found = json.loads(answer.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None
        if not (found["pip"] and found["venv"]):
            return None
        return Contents(
            tuple(found["python"]), found["torch"], found["detectron2"], found["freqfusion"]
        )
