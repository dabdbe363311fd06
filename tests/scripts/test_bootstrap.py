"""The parts of ``scripts/bootstrap.py``, each on its own, and the files around it."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import pytest

import bootstrap
from bootstrapping.detectron2 import Problem, diagnose, explain
from bootstrapping.progress import Outcome, Progress
from bootstrapping.requirements import (
    lowest_version,
    read_requirements,
    read_tables,
    requirement_name,
    supports,
)
from bootstrapping.source import Source, is_reachable, parse_source, repository_url
from bootstrapping.state import (
    State,
    changing,
    exclusive,
    fingerprint,
    load_state,
    save_state,
    was_interrupted,
)

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"


def outcome(*lines: str) -> Outcome:
    return Outcome(1, 0.0, lines)


def test_requirements_are_read_from_setup_py() -> None:
    found = read_requirements(ROOT / "setup.py")
    names = [requirement_name(item) for item in found.foundation]
    assert names[:3] == ["torch", "torchvision", "setuptools"]
    assert found.detectron2.startswith("git+https://")
    assert found.detectron2.endswith(f"@{COMMIT}")
    assert "opencv-python-headless" in map(requirement_name, found.companions)
    assert "detectron2" not in map(requirement_name, found.companions)


@pytest.mark.parametrize(
    ("declared", "lowest"),
    [
        ("torch>=2.11,<2.16,!=2.13.*", "torch==2.11"),
        ("fvcore>=0.1.5.post20221221", "fvcore==0.1.5.post20221221"),
        ("a-b>=3.0.1,<4; python_version >= '3.12'", "a-b==3.0.1; python_version >= '3.12'"),
        ("detectron2 @ git+https://host/d.git@0", "detectron2 @ git+https://host/d.git@0"),
    ],
)
def test_lowest_version(declared: str, lowest: str) -> None:
    assert lowest_version(declared) == lowest


def test_oldest_constrains_each_requirement_with_a_lower_bound() -> None:
    tables = read_tables(ROOT / "setup.py")
    declared = [*tables["INSTALL_REQUIRES"], *itertools.chain(*tables["EXTRAS_REQUIRE"].values())]
    names = {requirement_name(item) for item in declared} - {"detectron2", "freqfusion"}
    found = read_requirements(ROOT / "setup.py", oldest=True).constraints
    assert {requirement_name(item) for item in found} == names
    assert all("==" in item for item in found)
    assert read_requirements(ROOT / "setup.py").constraints == ()


def test_setup_py_imports_no_torch() -> None:
    assert not re.search(r"^\s*(import|from) torch", (ROOT / "setup.py").read_text(), re.MULTILINE)


def test_tables_that_are_no_literals_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "setup.py"
    file.write_text("A = ['x']\nB = [len(A)]\nlower = 1\n", encoding="utf-8")
    assert read_tables(file) == {"A": ["x"]}


@pytest.mark.parametrize(
    ("text", "name"),
    [("Pillow>=10", "pillow"), ("a_b.c[x]", "a-b-c"), ("detectron2 @ git+x", "detectron2")],
)
def test_requirement_name(text: str, name: str) -> None:
    assert requirement_name(text) == name


def test_requirement_name_rejects_what_is_none() -> None:
    with pytest.raises(ValueError, match="not a requirement"):
        requirement_name(">=3")


@pytest.mark.parametrize(
    ("version", "expected"),
    [((3, 10, 13), False), ((3, 11, 0), True), ((3, 13, 9), True), ((3, 14, 0), False)],
)
def test_supported_pythons(version: tuple[int, ...], expected: bool) -> None:
    assert supports(read_requirements(ROOT / "setup.py").python, version) is expected


def test_every_file_names_the_same_pythons() -> None:
    """The shell script and the settings of the tools repeat the range of setup.py."""
    tables = read_tables(ROOT / "setup.py")
    lower, upper = re.findall(r"3\.(\d+)", tables["PYTHON_REQUIRES"])
    script = (ROOT / "scripts" / "find_python.sh").read_text(encoding="utf-8")
    assert f"not (3, {lower}) <= sys.version_info[:2] < (3, {upper})" in script
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert settings["ruff"]["target-version"] == f"py3{lower}"
    for minor in range(int(lower), int(upper)):
        assert f"python3.{minor}" in script
        assert f"Programming Language :: Python :: 3.{minor}" in (ROOT / "setup.py").read_text()


# Where detectron2 comes from


@pytest.mark.parametrize(
    ("value", "kind", "requirement"),
    [
        ("git+https://host/d.git@abc", "git", "git+https://host/d.git@abc"),
        (" https://host/d.git ", "git", "git+https://host/d.git"),
        ("https://host/d.whl", "archive", "https://host/d.whl"),
        ("https://host/d.tar.gz#sha256=0", "archive", "https://host/d.tar.gz#sha256=0"),
    ],
)
def test_remote_sources(value: str, kind: str, requirement: str) -> None:
    source = parse_source(value)
    assert (source.kind, source.requirement) == (kind, requirement)


def test_a_wheel_is_known_by_its_content(tmp_path: Path) -> None:
    wheel = tmp_path / "detectron2-0.6-py3-none-any.whl"
    wheel.write_bytes(b"one")
    before = parse_source(str(wheel))
    wheel.write_bytes(b"another")
    assert before.kind == "file"
    assert parse_source(f"file://{wheel}").requirement == before.requirement
    assert parse_source(str(wheel)).identity != before.identity


def test_a_folder_must_be_installable(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no setup\.py"):
        parse_source(str(tmp_path))
    (tmp_path / "setup.py").touch()
    assert parse_source(str(tmp_path)).kind == "folder"


def test_a_path_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        parse_source(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("requirement", "url"),
    [
        ("git+https://host/a/d.git@0123", "https://host/a/d.git"),
        ("git+https://host/a/d.git", "https://host/a/d.git"),
        ("git+ssh://git@host/d.git@main#egg=d", "ssh://git@host/d.git"),
    ],
)
def test_repository_url(requirement: str, url: str) -> None:
    assert repository_url(requirement) == url


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_repository_answers_or_not(tmp_path: Path) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.invalid"]
    for command in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    there = parse_source(f"git+file://{tmp_path}@main")
    assert is_reachable(there)
    assert not is_reachable(Source("git", f"git+file://{tmp_path}/nowhere", ""))


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_silent_server_does_not_hang_the_probe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/d"
        start = time.monotonic()
        assert not is_reachable(parse_source(f"git+{url}.git"), seconds=0.5)
        assert not is_reachable(parse_source(f"{url}.whl"), seconds=0.5)
        assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("line", "kind", "word"),
    [
        ("× git clone --quiet https://x did not run successfully.", "download", "reached"),
        ("fatal: unable to access 'https://x/': Could not resolve host", "download", "reached"),
        ("  HTTP error 404 while getting https://host/d.whl", "download", "reached"),
        ("error: command 'g++' failed: No such file or directory: 'g++'", "build", "g++"),
        ("fatal error: Python.h: No such file or directory", "build", "python3-dev"),
        ("The detected CUDA version (12.4) mismatches the version", "build", "CUDA_VISIBLE"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "build", "MAX_JOBS"),
        ("OSError: [Errno 28] No space left on device", "build", "disk"),
        ("vision.cpp:3:1: error: expected unqualified-id", "build", "expected unqualified-id"),
    ],
)
def test_download_and_build_failures_are_told_apart(line: str, kind: str, word: str) -> None:
    problem = diagnose(outcome("Collecting", line, "ERROR: Failed to build"), reachable=True)
    assert problem.kind == kind
    assert word in problem.text


def test_failure_of_an_unreachable_source_is_a_download_failure() -> None:
    assert diagnose(outcome("error: whatever"), reachable=False).kind == "download"


def test_build_failure_without_a_word() -> None:
    assert diagnose(outcome(), reachable=True) == Problem("build", "pip gave no reason")


def test_explanation_is_one_paragraph() -> None:
    text = explain(Problem("build", "no compiler"), parse_source("git+https://host/d.git@1"))
    assert "\n\n" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert "make install" in text


# What is remembered


def test_state_survives(tmp_path: Path) -> None:
    state = State("f", "s", "2.15.0", "no", "build", "g++")
    save_state(tmp_path, state)
    assert load_state(tmp_path) == state


@pytest.mark.parametrize("content", ["", "[]", '{"unknown": 1}', "{"])
def test_unreadable_state_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "freqfusion-install.json").write_text(content, encoding="utf-8")
    assert load_state(tmp_path) is None


def test_change_marks_the_folder_until_it_is_done(tmp_path: Path) -> None:
    save_state(tmp_path, State("f", "s", "t"))
    with changing(tmp_path):
        assert was_interrupted(tmp_path)
        assert load_state(tmp_path) is None
    assert not was_interrupted(tmp_path)


def test_lock_is_inherited_by_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second installation waits for a pip whose parent was killed."""
    program = f"""
import os, subprocess, sys
from pathlib import Path
from bootstrapping.state import exclusive
with exclusive(Path({str(tmp_path)!r})):
    code = "import sys, time; print(flush=True); time.sleep(0.7)"
    child = subprocess.Popen([sys.executable, "-S", "-c", code], close_fds=False, stdout=-1)
    child.stdout.readline()
    os._exit(0)
"""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
    start = time.monotonic()
    with exclusive(tmp_path):
        assert time.monotonic() - start > 0.2


def test_fingerprint_sees_contents_and_values(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("1", encoding="utf-8")
    first = fingerprint([file], ["x"])
    assert first == fingerprint([file], ["x"])
    assert first != fingerprint([file], ["y"])
    file.write_text("2", encoding="utf-8")
    assert first != fingerprint([file], ["x"])


# What is shown


def test_progress_counts_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(2, tmp_path / "log", {"WORD": "hello"})
    progress.announce("first")
    code = "import os; print(os.environ['WORD']); raise SystemExit(3)"
    ended = progress.run([sys.executable, "-S", "-c", code])
    assert (ended.returncode, ended.tail) == (3, ("hello",))
    assert capsys.readouterr().out.splitlines()[0] == "[1/2] first"
    assert "hello" in (tmp_path / "log").read_text(encoding="utf-8")


def test_a_long_step_shows_signs_of_life(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootstrapping.progress.HEARTBEAT_SECONDS", 0.2)
    code = "import time; print('Downloading', flush=True); time.sleep(0.7)"
    Progress(1, tmp_path / "log").run([sys.executable, "-S", "-c", code])
    assert "s  Downloading" in capsys.readouterr().out


# The command lines


def test_wrong_python_is_a_clear_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert bootstrap.main([]) == 2
    assert "freqfusion needs Python >=3.11,<3.14, and this is 3.9.1" in capsys.readouterr().err


def test_impossible_source_is_a_clear_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert bootstrap.main(["--detectron2", "/no/such/place"]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def test_note_repeats_why_detectron2_is_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_state(tmp_path, State("f", "s", "t", "git is not installed", "download"))
    assert bootstrap.main(["--venv", str(tmp_path), "--note"]) == 0
    assert "git is not installed" in " ".join(capsys.readouterr().out.split())
    save_state(tmp_path, State("f", "s", "t"))
    assert bootstrap.main(["--venv", str(tmp_path), "--note"]) == 0
    assert capsys.readouterr().out == ""


def find_python(choice: str, path: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "scripts" / "find_python.sh")
    return subprocess.run(
        ["/bin/sh", script, choice], capture_output=True, text=True, env={"PATH": path}, check=False
    )


def add_command(folder: Path, name: str, *, supported: bool) -> None:
    file = folder / name
    answer = "echo Python 3.9.1" if not supported else "exit 0"
    check = 'case "$1" in -c) exit 1;; esac' if not supported else ""
    file.write_text(f"#!/bin/sh\n{check}\n{answer}\n", encoding="utf-8")
    file.chmod(0o755)


def test_first_supported_python_is_found(tmp_path: Path) -> None:
    add_command(tmp_path, "python3.11", supported=False)  # a shim without its interpreter
    add_command(tmp_path, "python3.13", supported=True)
    add_command(tmp_path, "python3", supported=True)
    assert find_python("", str(tmp_path)).stdout.strip() == "python3.13"


def test_no_supported_python(tmp_path: Path) -> None:
    add_command(tmp_path, "python3", supported=False)
    answer = find_python("", str(tmp_path))
    assert answer.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13, and none is on the PATH" in answer.stderr


def test_chosen_python_must_be_supported(tmp_path: Path) -> None:
    add_command(tmp_path, "old", supported=False)
    assert "PYTHON=old is Python 3.9.1" in find_python("old", str(tmp_path)).stderr
    assert "cannot be run" in find_python("absent", str(tmp_path)).stderr
    assert find_python(sys.executable, str(tmp_path)).stdout.strip() == sys.executable


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_targets_by_default() -> None:
    answer = subprocess.run(
        ["make", "-C", str(ROOT)], capture_output=True, text=True, check=True
    ).stdout
    targets = "install demo test test-fast test-oldest test-all lint format bench"
    for target in targets.split():
        assert re.search(rf"^  {target} ", answer, re.MULTILINE), target


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_oldest_versions_have_an_environment_of_their_own() -> None:
    """Also where the variables of the shell name another one, with a newer Python."""
    lower = re.findall(r"3\.\d+", read_tables(ROOT / "setup.py")["PYTHON_REQUIRES"])[0]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    env |= {"VENV": "mine", "PYTHON": "python3.13"}
    answer = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "test-oldest"],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    ).stdout
    assert f'find_python.sh "python{lower}"' in answer
    assert '--venv ".venv-oldest"' in answer
    assert "--oldest" in answer
    assert '".venv-oldest/bin/python" -m pytest' in answer


def test_ci_script_can_be_executed() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
