"""Make the virtual environment of this repository, or see in a second that nothing is left to do.

Called by the Makefile; needs the standard library only. The requirements are those of ``setup.py``.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAMP, LOG, CONSTRAINTS = "freqfusion.json", "freqfusion-install.log", "freqfusion-constraints.txt"
# What compiles detectron2 must be there before it, and in the same versions after it.
FOUNDATION = ("torch", "torchvision", "setuptools", "ninja", "wheel")
TABLES = ("PYTHON_REQUIRES", "INSTALL_REQUIRES", "EXTRAS_REQUIRE")
HEARTBEAT_SECONDS = 15
# Settings of the shell and of pip that would install elsewhere; git must not ask for a password.
CLEAN = {
    "PIP_USER": "0",
    "PIP_TARGET": "",
    "PIP_PREFIX": "",
    "PYTHONPATH": "",
    "PYTHONNOUSERSITE": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=5",
}
INSPECT = """
import importlib.metadata, json, sys
names = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
print(json.dumps({"python": sys.version.split()[0], **names}))
"""
COMPILED = "import torch; from detectron2 import _C"
CANDIDATES = ("python3.11", "python3.12", "python3.13", sys.executable, "python3", "python")
VERSION = "import sys; print(*sys.version_info[:3], sep='.')"
HINTS = {
    r"(g\+\+|c\+\+|gcc|cc|clang).*(not found|No such file)": "there is no C++ compiler "
    "(Debian and Ubuntu: sudo apt install g++)",
    r"Python\.h: No such file": "Python's headers are missing (sudo apt install python3-dev)",
    r"ensurepip is not available": "this Python has no venv module (sudo apt install python3-venv)",
    r"\bKilled\b": "the compiler ran out of memory (try MAX_JOBS=1)",
    r"No space left on device": "the disk is full",
    r"unable to access|Could not resolve|NewConnectionError|ConnectTimeout|did not run successfully"
    r"[^$]*git (clone|fetch|version)": "the network or the source cannot be reached",
}


class SetupError(Exception):
    """What stopped the installation; the text is for the user."""


def read_requirements() -> dict[str, Any]:
    """Return the tables of ``setup.py`` without running it."""
    tables = {}
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in TABLES:
            tables[ast.unparse(node.targets[0])] = ast.literal_eval(node.value)
    return tables


def lowest_version(requirement: str) -> str:
    """Return the requirement with its lower bound as the only version: ``a>=1,<3`` as ``a==1``."""
    return re.sub(r"^([\w.-]+)>=([\w.]+)[^;]*", r"\1==\2", requirement)


def supports(requires: str, version: str) -> bool:
    """Return whether a version such as ``3.11.7`` is in a range such as ``>=3.11,<3.14``."""
    low, high = (tuple(map(int, part.split("."))) for part in re.findall(r"\d+\.\d+", requires))
    return low <= tuple(map(int, version.split(".")))[:2] < high


def find_python(named: str, requires: str) -> tuple[str, str]:
    """Return the command and version of a supported Python: of the named one, or the first."""
    wanted = f"freqfusion needs Python {requires}"
    for command in [named] if named else CANDIDATES:
        try:
            done = subprocess.run([command, "-c", VERSION], capture_output=True, text=True)
        except OSError:
            done = None
        version = done.stdout.strip() if done and not done.returncode else ""
        if version and supports(requires, version):
            return command, version
        if named:
            raise SetupError(f"{wanted}; PYTHON={named} {f'is {version}' if version else 'fails'}")
    raise SetupError(
        f"{wanted}, and none is on the PATH. Install one (Debian and Ubuntu: sudo apt install"
        " python3.11 python3.11-venv python3.11-dev), or name it: PYTHON=/path/to/python3.11"
    )


def find_source(named: str) -> str:
    """Return what pip installs detectron2 from: a URL, or the path of a wheel or folder."""
    if "://" in named:
        archive = re.search(r"\.(whl|zip|gz|tgz)$", named)
        return named if archive or named.startswith("git+") else f"git+{named}"
    path = Path(named).expanduser().resolve()
    if path.is_file() or (path / "setup.py").is_file():
        return str(path)
    raise SetupError(
        f"DETECTRON2={named}: there is no such wheel, and no folder with detectron2's setup.py."
        " Name one of these, or a URL such as git+https://host/detectron2.git@commit."
    )


class Environment:
    """The virtual environment in ``folder``, with the log of what was done to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / LOG
        self.python = str(folder / "bin" / "python")

    def packages(self) -> dict[str, str]:
        """Return the installed versions, ``python`` among them; nothing where it cannot run."""
        try:
            answer = subprocess.run(
                [self.python, "-I", "-c", INSPECT], capture_output=True, text=True, check=True
            )
            return dict(json.loads(answer.stdout))
        except (OSError, ValueError, subprocess.SubprocessError):
            return {}

    def runs(self, code: str) -> bool:
        """Return whether a line of Python ends without an error."""
        return not subprocess.run([self.python, "-c", code], capture_output=True).returncode

    def stamp(self) -> dict[str, Any]:
        """Return what the last complete installation noted, nothing without one."""
        try:
            return dict(json.loads((self.folder / STAMP).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def note(self, stamp: dict[str, Any]) -> None:
        """Write the stamp, in one move."""
        partial = self.folder / f"{STAMP}.tmp"
        partial.write_text(json.dumps(stamp), encoding="utf-8")
        partial.replace(self.folder / STAMP)

    def create(self, python: str) -> None:
        """Make the folder anew with a Python; SetupError for a folder that holds something else."""
        if self.folder.exists() and any(self.folder.iterdir()):
            if not (self.folder / "pyvenv.cfg").is_file():
                raise SetupError(f"VENV={self.folder} is no virtual environment; name another one")
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run("virtual environment", [python, "-m", "venv", str(self.folder)])

    def pip(self, title: str, *arguments: str) -> None:
        """Install with pip; errors are those of ``run``."""
        command = [self.python, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
        if (self.folder / CONSTRAINTS).is_file():
            command += ["--constraint", str(self.folder / CONSTRAINTS)]
        self.run(title, [*command, *arguments])

    def run(self, title: str, command: list[str]) -> None:
        """Run a command, its output in the log, with a sign of life every quarter of a minute.

        SetupError, with the reason that the log gives, if it fails.
        """
        print(f"- {title}", flush=True)
        started = time.monotonic()
        with self.log.open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | CLEAN
            )
            while process.returncode is None:
                try:
                    process.wait(HEARTBEAT_SECONDS)
                except subprocess.TimeoutExpired:
                    print(f"  {time.monotonic() - started:.0f} s", flush=True)
        if process.returncode:
            output = self.log.read_bytes()[begin:].decode(errors="replace")
            raise SetupError(f"{title} failed: {reason(output)}. All of it: {self.log}")


def reason(output: str) -> str:
    """Return a known cause in the output of pip, or else its last line about an error."""
    for pattern, hint in HINTS.items():
        if re.search(pattern, output):
            return hint
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)]
    return (errors or lines or ["no reason was given"])[-1][:300]


def install(environment: Environment, tables: dict[str, Any], source: str, oldest: bool) -> str:
    """Install everything; return why detectron2 could not be, or nothing."""
    extras = tables["EXTRAS_REQUIRE"]
    everything = [*tables["INSTALL_REQUIRES"], *extras["detectron2"]]
    foundation = [item for item in everything if re.match(r"[\w-]+", item)[0] in FOUNDATION]  # type: ignore[index]
    companions = [item for item in extras["detectron2"] if not item.startswith("detectron2")]
    if oldest:
        listed = [*tables["INSTALL_REQUIRES"], *(item for part in extras.values() for item in part)]
        lowest = sorted({lowest_version(item) for item in listed if re.match(r"[\w.-]+>=", item)})
        (environment.folder / CONSTRAINTS).write_text("\n".join(lowest), encoding="utf-8")
    environment.pip("PyTorch and what compiles detectron2", *foundation)
    remote = f"detectron2 @ {source}" if "://" in source else source
    build = ["--no-build-isolation", "--force-reinstall", "--no-deps", remote]
    problem = ""
    try:
        environment.pip(f"detectron2 from {source} (compiling takes some minutes)", *build)
    except SetupError as error:
        problem = str(error)
    project = ["--no-build-isolation", "-e", f"{ROOT}[dev]", *foundation]
    environment.pip("freqfusion", *project, *([] if problem else ["detectron2", *companions]))
    if not problem and not environment.runs(COMPILED):
        # A wheel in pip's cache may have been compiled for another PyTorch.
        environment.pip("detectron2 again, for this PyTorch", "--no-cache-dir", *build)
    return problem


def note(problem: str) -> str:
    """Return the paragraph about a missing detectron2."""
    text = (
        f"NOTE: detectron2 is missing: {problem} Until then freqfusion works without it: "
        "freqfusion.layers and the other torch-only parts run, and tests that need detectron2 are "
        "skipped. 'make install' tries again; DETECTRON2=<wheel, folder or URL> names another "
        "source; FREQFUSION_REQUIRE_DETECTRON2=1 makes this an error."
    )
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def prepare(options: argparse.Namespace) -> str:
    """Bring the environment up to date; return a line, or a paragraph, about what it holds."""
    environment, tables = Environment(options.venv.expanduser().resolve()), read_requirements()
    python, version = find_python(options.python, tables["PYTHON_REQUIRES"])
    stamp, packages = environment.stamp(), environment.packages()
    pinned = next(i for i in tables["EXTRAS_REQUIRE"]["detectron2"] if i.startswith("detectron2"))
    named = options.detectron2 or stamp.get("named", "")
    named = "" if named == "default" else named
    source = find_source(named or pinned.partition("@")[2].strip())
    inputs = [f"{source} {options.oldest} {ROOT}".encode()]
    inputs += [(ROOT / name).read_bytes() for name in ("setup.py", "pyproject.toml")]
    digest = hashlib.sha256(b"\0".join([*inputs, Path(__file__).read_bytes()])).hexdigest()
    required = os.environ.get("FREQFUSION_REQUIRE_DETECTRON2", "") not in ("", "0")
    again = stamp.get("problem") and (options.retry or required)
    holds = packages.get("python", "0.0.0")
    other = options.python and holds.split(".")[:2] != version.split(".")[:2]
    unusable = other or not supports(tables["PYTHON_REQUIRES"], holds)
    anew = unusable or "interrupted" in stamp
    gone = not {"torch", "freqfusion"} <= set(packages)
    if anew or gone or again or stamp.get("digest") != digest:
        started = time.monotonic()
        if anew:
            print(f"Making {environment.folder}: minutes and gigabytes the first time", flush=True)
            environment.create(python)
        environment.note({"named": named, "interrupted": True})
        problem = install(environment, tables, source, options.oldest)
        stamp = {"digest": digest, "named": named, "problem": problem}
        environment.note(stamp)
        print(f"Installed in {time.monotonic() - started:.0f} s", flush=True)
        packages = environment.packages()
    if stamp["problem"] and required:
        raise SetupError(note(stamp["problem"]))
    found = f"detectron2 {packages['detectron2']}" if "detectron2" in packages else "no detectron2"
    line = f"{environment.folder}: Python {packages['python']}, torch {packages['torch']}, {found}"
    return f"{line}\n\n{note(stamp['problem'])}\n" if stamp["problem"] else line


def main(arguments: list[str]) -> int:
    """Make what is missing; return 0, or 1 with a sentence on standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--venv", type=Path, default=Path(".venv"), help="folder of the environment (%(default)s)")
    add("--detectron2", default="", help="wheel, folder or URL; 'default': the pinned commit again")
    add("--python", default="", help="Python to make it with; not given: the first one that fits")
    add("--retry", action="store_true", help="try a detectron2 that failed before again")
    add("--oldest", action="store_true", help="install the lowest versions that setup.py allows")
    options = parser.parse_args(arguments)
    try:
        print(prepare(options), flush=True)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
