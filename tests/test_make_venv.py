"""The script behind ``make``: which steps it takes, and what it says. pip itself is a stand-in."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import make_venv

ROOT = Path(__file__).parents[1]
VERSION = ".".join(map(str, sys.version_info[:3]))


class Machine:
    """A folder of an environment in which commands only leave traces."""

    def __init__(self, folder):
        self.folder = folder
        self.commands = []
        self.failing = None
        self.installed = {}
        self.compiled = True

    def run(self, environment, title, command):
        self.commands.append(" ".join(command))
        if self.failing and self.failing in self.commands[-1]:
            raise make_venv.SetupError(f"{title} failed: the network cannot be reached.")
        if "venv" in command:
            (self.folder / "pyvenv.cfg").touch()
            self.installed = {"python": VERSION}
        elif "-e" in command:
            self.installed |= {"torch": "2.14.1", "freqfusion": "0.1.0"}
            self.installed |= {"detectron2": "0.6"} if "detectron2" in command else {}

    def make(self, *options):
        """Run the script; return its exit code and the commands of this run."""
        self.commands.clear()
        code = make_venv.main(["--venv", str(self.folder), *options])
        return code, list(self.commands)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    site = Machine(tmp_path / "venv")
    monkeypatch.setattr(make_venv.Environment, "run", lambda self, *parts: site.run(self, *parts))
    monkeypatch.setattr(make_venv.Environment, "runs", lambda self, code: site.compiled)
    monkeypatch.setattr(make_venv.Environment, "packages", lambda self: site.installed)
    monkeypatch.delenv("FREQFUSION_REQUIRE_DETECTRON2", raising=False)
    return site


def test_fresh_machine_and_second_run(machine, capsys):
    code, commands = machine.make()
    assert code == 0
    kinds = ["venv", "torch>=", "detectron2 @ git+https", "-e"]
    assert all(kind in command for kind, command in zip(kinds, commands, strict=True))
    assert "torch 2.14.1, detectron2 0.6" in capsys.readouterr().out
    assert machine.make() == (0, [])


def test_goes_on_without_detectron2_and_tries_again_when_asked(machine, capsys, monkeypatch):
    machine.failing = "detectron2 @"
    assert machine.make()[0] == 0
    printed = capsys.readouterr().out
    assert "no detectron2" in printed
    assert "NOTE: detectron2 is missing" in printed
    assert machine.make() == (0, [])
    monkeypatch.setenv("FREQFUSION_REQUIRE_DETECTRON2", "1")
    assert machine.make()[0] == 1
    monkeypatch.delenv("FREQFUSION_REQUIRE_DETECTRON2")
    machine.failing = None
    code, commands = machine.make("--retry")
    assert (code, len(commands)) == (0, 3)
    assert "NOTE" not in capsys.readouterr().out.splitlines()[-1]


def test_named_source_holds_until_another_is_named(machine, tmp_path):
    wheel = tmp_path / "detectron2-0.6.whl"
    wheel.touch()
    assert any(str(wheel) in command for command in machine.make("--detectron2", str(wheel))[1])
    assert machine.make() == (0, [])
    assert any("detectron2 @ git" in line for line in machine.make("--detectron2", "default")[1])


def test_changed_requirements_are_installed_into_the_same_environment(machine):
    machine.make()
    stamp = machine.folder / make_venv.STAMP
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"digest": "of an older setup.py"}))
    commands = machine.make()[1]
    assert len(commands) == 3
    assert not any("-m venv" in command for command in commands)


def test_interrupted_installation_starts_anew(machine):
    machine.failing = "torch>="
    assert machine.make()[0] == 1
    machine.failing = None
    assert "-m venv" in machine.make()[1][0]


def test_an_environment_of_the_user_is_completed(machine):
    machine.folder.mkdir()
    for name in ("pyvenv.cfg", "mine"):
        (machine.folder / name).touch()
    machine.installed = {"python": VERSION}
    code, commands = machine.make()
    assert (code, len(commands)) == (0, 3)
    assert (machine.folder / "mine").exists()


def test_another_python_only_where_it_is_chosen(machine):
    machine.make()
    machine.installed["python"] = "3.12.1" if sys.version_info[:2] != (3, 12) else "3.13.0"
    assert machine.make() == (0, [])
    assert "-m venv" in machine.make("--python", sys.executable)[1][0]


def test_oldest_versions_are_constraints(machine):
    machine.make("--oldest")
    lines = (machine.folder / make_venv.CONSTRAINTS).read_text().splitlines()
    assert any(re.fullmatch(r"torch==2\.\d+", line) for line in lines)
    assert all("==" in line for line in lines)


def test_foreign_folder_is_left_alone(machine, capsys):
    machine.folder.mkdir()
    (machine.folder / "thesis.tex").touch()
    assert machine.make()[0] == 1
    assert "is no virtual environment; name another one" in capsys.readouterr().err
    assert (machine.folder / "thesis.tex").exists()


@pytest.fixture
def old_python(tmp_path):
    script = tmp_path / "python3.11"
    script.write_text("#!/bin/sh\necho 3.10.2\n")
    script.chmod(0o755)
    return script


def test_unsupported_python(machine, old_python, monkeypatch, capsys):
    assert machine.make("--python", str(old_python))[0] == 1
    said = f"freqfusion needs Python >=3.11,<3.14; PYTHON={old_python} is 3.10.2"
    assert said in capsys.readouterr().err
    assert machine.make("--python", "/no/such/python")[0] == 1
    assert "PYTHON=/no/such/python fails" in capsys.readouterr().err
    monkeypatch.setattr(make_venv, "CANDIDATES", (str(old_python),))
    assert machine.make()[0] == 1
    assert "none is on the PATH. Install one" in capsys.readouterr().err


def test_a_cached_build_for_another_torch_is_built_again(machine):
    machine.compiled = False
    commands = machine.make()[1]
    assert "--no-cache-dir" in commands[-1]
    assert "detectron2 @" in commands[-1]


@pytest.mark.parametrize(
    ("named", "source"),
    [
        ("https://host/detectron2.git@abc", "git+https://host/detectron2.git@abc"),
        ("git+ssh://host/detectron2.git", "git+ssh://host/detectron2.git"),
        ("https://host/detectron2-0.6.whl", "https://host/detectron2-0.6.whl"),
    ],
)
def test_remote_sources(named, source):
    assert make_venv.find_source(named) == source


def test_a_folder_must_be_installable(tmp_path):
    with pytest.raises(make_venv.SetupError, match="no such wheel, and no folder with detectron2"):
        make_venv.find_source(str(tmp_path))
    (tmp_path / "setup.py").touch()
    assert make_venv.find_source(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("unable to execute 'g++': No such file or directory", "no C++ compiler"),
        ("fatal error: Python.h: No such file or directory", "headers are missing"),
        ("fatal: unable to access 'https://host/'", "network or the source"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("error: something else\nnote: This error is not pip's", "note: This error"),
        ("", "no reason was given"),
    ],
)
def test_reasons(output, said):
    assert said in make_venv.reason(output)


def test_a_command_that_fails_names_its_reason_and_its_log(tmp_path):
    environment = make_venv.Environment(tmp_path)
    with pytest.raises(make_venv.SetupError, match=r"step failed: fatal error x. All of it: .*log"):
        environment.run("step", [sys.executable, "-c", "raise SystemExit('fatal error x')"])


@pytest.mark.parametrize(
    ("declared", "lowest"),
    [
        ("a>=1.2,<3,!=2.*", "a==1.2"),
        ("b>=1; python_version >= '3.12'", "b==1; python_version >= '3.12'"),
    ],
)
def test_lowest_version(declared, lowest):
    assert make_venv.lowest_version(declared) == lowest


def test_every_file_names_the_same_pythons():
    requires = make_venv.read_requirements()["PYTHON_REQUIRES"]
    names = [name for name in make_venv.CANDIDATES if name.startswith("python3.")]
    assert [make_venv.supports(requires, name[6:]) for name in names] == [True] * 3
    assert not make_venv.supports(requires, "3.10.9")
    assert not make_venv.supports(requires, "3.14.0")
    text = (ROOT / "setup.py").read_text()
    assert all(f"Python :: {name[6:]}" in text for name in names)


def test_make_lists_its_targets_by_default():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("install", "demo", "test", "test-oldest", "lint"):
        assert re.search(rf"^  {target}\b", done.stdout, re.MULTILINE)


def test_oldest_versions_have_an_environment_of_their_own():
    """Also where the variables of the shell name another one, with a newer Python."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    env |= {"VENV": "mine", "PYTHON": "python3.13"}
    command = ["make", "-n", "-C", str(ROOT), "test-oldest"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert '--venv ".venv-oldest" --python "python3.11"' in done.stdout
    assert "--oldest" in done.stdout
