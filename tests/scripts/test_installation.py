"""Whole installations with a stand-in for the interpreter: what is done, and what is said."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import bootstrap
from bootstrapping import detectron2 as detectron2_step
from bootstrapping.installation import Installation, InstallError
from bootstrapping.planning import Options, Plan
from bootstrapping.requirements import read_requirements
from bootstrapping.source import Source, parse_source
from bootstrapping.state import MARKER, STAMP
from bootstrapping.venv import Environment

ROOT = Path(__file__).resolve().parents[2]
URL = "git+https://example.invalid/detectron2.git@" + "0" * 40
CLONE_FAILS = "error: subprocess-exited-with-error\n× git clone --quiet did not run successfully."
BUILD_FAILS = (
    "  error: command '/usr/bin/g++' failed with exit code 1\nERROR: Failed to build wheel"
)


class Site:
    """An installation in a temporary folder, whose pip and network do as they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = folder / "pip.log"
        self.failures = folder / "failures.json"
        self.reachable = True
        self.path = folder / "venv"
        self.fail({})
        monkeypatch.setenv("FAKE_LOG", str(self.log))
        monkeypatch.setenv("FAKE_PIP", str(self.failures))
        monkeypatch.setattr(detectron2_step, "is_reachable", lambda *_: self.reachable)
        self.installation = Installation(
            Environment(self.path),
            read_requirements(ROOT / "setup.py"),
            parse_source(URL),
            Options(root=ROOT),
            probe=lambda _: self.reachable,
            make_venv=(sys.executable, str(Path(__file__).parent / "fake_venv.py")),
        )

    def fail(self, failures: dict[str, str]) -> None:
        """Let pip fail at commands that hold one of these words."""
        self.failures.write_text(json.dumps(failures), encoding="utf-8")

    def run(self, **options: Any) -> list[str]:
        """Run the installation and return the pip commands of this run."""
        self.log.write_text("", encoding="utf-8")
        changed = replace(self.installation.options, **options)
        self.said = replace(self.installation, options=changed).run()
        return self.log.read_text(encoding="utf-8").splitlines()

    def change(self, **values: object) -> None:
        """Change what the stand-in interpreter says of itself."""
        file = self.path / "bin" / "installed.json"
        state = json.loads(file.read_text(encoding="utf-8")) | values
        file.write_text(json.dumps(state), encoding="utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_fresh_machine(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Torch, torchvision and setuptools in one command; then detectron2; then the project."""
    commands = site.run()
    foundation, detectron2, project = commands
    for word in ("torch>=", "torchvision>=", "setuptools>=77.0.3,<81"):
        assert word in foundation
    assert "--no-build-isolation" in detectron2
    assert detectron2.endswith(f"detectron2 @ {URL}")
    assert f"-e {ROOT}[dev]" in project
    assert "opencv-python-headless" in project
    out = capsys.readouterr().out
    assert [f"[{step}/4]" in out for step in (1, 2, 3, 4)] == [True] * 4
    assert "NOTE" not in site.said


def test_second_run_does_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.run()
    capsys.readouterr()
    site.reachable = False
    assert site.run() == []
    assert capsys.readouterr().out == ""
    assert "torch 2.15.0, detectron2 0.6" in site.said


def test_oldest_versions_are_constraints_of_each_command(site: Site) -> None:
    """The environment of the lowest versions is another one than that of the newest."""
    assert not any("--constraint" in command for command in site.run())
    requirements = read_requirements(ROOT / "setup.py", oldest=True)
    site.installation = replace(site.installation, requirements=requirements)
    foundation, project = site.run()
    file = site.installation.environment.constraints
    assert f"--constraint {file}" in foundation
    assert f"--constraint {file}" in project
    assert "torch==2.11" in file.read_text(encoding="utf-8").splitlines()
    assert site.run() == []


def test_download_failure_goes_on_without_detectron2(site: Site) -> None:
    """One paragraph with the remedy; what detectron2 alone needs is not installed."""
    site.fail({URL: CLONE_FAILS})
    site.reachable = False
    commands = site.run()
    assert len(commands) == 3
    assert "pycocotools>=2.0.8" not in commands[-1]
    assert site.said.count("NOTE") == 1
    note = " ".join(site.said.split())
    assert "could not be downloaded" in note
    assert "make install DETECTRON2=" in note


def test_absent_detectron2_is_tried_again_when_the_source_answers(site: Site) -> None:
    site.fail({URL: CLONE_FAILS})
    site.reachable = False
    site.run()
    assert site.run() == []
    assert "NOTE" in site.said
    site.fail({})
    site.reachable = True
    assert URL in site.run()[0]
    assert "NOTE" not in site.said


def test_build_failure_is_named_and_not_repeated(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build takes minutes: it is tried again when the compiler changes, or on demand."""
    site.fail({URL: BUILD_FAILS})
    site.run()
    note = " ".join(site.said.split())
    assert "could not be built" in note
    assert "g++" in note
    assert site.run() == []
    assert URL in site.run(retry=True)[0]
    monkeypatch.setenv("MAX_JOBS", "1")
    assert URL in site.run()[0]


@pytest.mark.parametrize("output", [CLONE_FAILS, BUILD_FAILS])
def test_required_detectron2_is_an_error(site: Site, output: str) -> None:
    """Also where an earlier run had gone on without it; and it is tried anew every time."""
    site.fail({URL: output})
    site.run()
    with pytest.raises(InstallError, match="NOTE: detectron2"):
        site.run(required=True)
    site.fail({})
    assert "NOTE" not in (site.run(required=True) and site.said)


def test_another_source_replaces_detectron2_only(site: Site, tmp_path: Path) -> None:
    site.run()
    wheel = tmp_path / "detectron2-0.6-py3-none-any.whl"
    wheel.touch()
    site.installation = replace(site.installation, source=parse_source(str(wheel)))
    commands = site.run()
    assert str(wheel) in commands[0]
    assert len(commands) == 2
    assert site.run() == []


def test_chosen_source_holds_until_another_one_is_named(site: Site, tmp_path: Path) -> None:
    """A plain run keeps it, even when the wheel has gone; another name replaces it."""
    wheel = tmp_path / "detectron2-0.6-py3-none-any.whl"
    wheel.touch()
    choose = partial(bootstrap.choose_source, default=URL, environment=Environment(site.path))
    source, chosen = choose(str(wheel))
    site.installation = replace(site.installation, source=source)
    site.run(source_chosen=chosen, source_named_now=True)
    wheel.unlink()
    source, chosen = choose("")
    assert (source.requirement, chosen) == (URL, str(wheel))
    site.installation = replace(site.installation, source=source)
    assert site.run(source_chosen=chosen) == []
    source, chosen = choose("default")
    assert (source.requirement, chosen) == (URL, "")
    assert URL in site.run(source_chosen=chosen, source_named_now=True)[0]
    assert choose("") == (source, "")


def test_failure_to_replace_detectron2_leaves_the_old_one_and_says_so(site: Site) -> None:
    site.run()
    site.fail({"new-place": BUILD_FAILS})
    source = parse_source("git+https://example.invalid/new-place.git")
    site.installation = replace(site.installation, source=source)
    site.run()
    assert "detectron2 0.6 that was there before stays in use" in " ".join(site.said.split())
    assert "without detectron2" not in site.said


def test_changed_requirements_are_installed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compiling a detectron2 that is there."""
    site.run()
    monkeypatch.setattr(Installation, "fingerprint", lambda self: "changed")
    commands = site.run()
    assert len(commands) == 2
    assert not any(URL in command for command in commands)


def test_interrupted_installation_starts_anew(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.run()
    (site.path / STAMP).unlink()
    (site.path / MARKER).touch()
    assert len(site.run()) == 3
    assert "made anew: the last installation was interrupted" in capsys.readouterr().out
    assert site.run() == []


def test_interruption_leaves_its_mark(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.run()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bootstrapping.installation.install_detectron2", interrupt)
    site.installation = replace(site.installation, source=Source("git", "git+x", "other"))
    with pytest.raises(KeyboardInterrupt):
        site.run()
    assert site.installation.plan().reason == "the last installation was interrupted"


def test_unusable_python_is_replaced(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.run()
    (site.path / "bin" / "python").unlink()
    assert len(site.run()) == 3
    assert "made anew: its Python cannot be run" in capsys.readouterr().out


def test_other_python_is_replaced_only_where_it_was_chosen(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.run()
    other = 11 if sys.version_info[1] != 11 else 12
    site.change(python=[3, other, 0])
    assert site.run() == []
    assert len(site.run(python_chosen=True)) == 3
    assert f"it holds Python 3.{other}.0" in capsys.readouterr().out


def test_unsupported_python_is_replaced(site: Site) -> None:
    site.run()
    site.change(python=[3, 9, 0])
    assert len(site.run()) == 3


def test_foreign_folder_is_left_alone(site: Site) -> None:
    site.path.mkdir()
    (site.path / "thesis.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(InstallError, match="no virtual environment"):
        site.run()
    assert (site.path / "thesis.txt").read_text(encoding="utf-8") == "precious"


def test_killed_removal_is_taken_up_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says that the folder is an environment goes last."""
    site.run()
    (site.path / MARKER).touch()

    def refuse(path: Path) -> None:
        raise OSError(f"cannot remove {path.name}")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(InstallError, match="cannot be removed: cannot remove bin"):
            site.run()
    assert len(site.run()) == 3


def test_failure_shows_the_end_of_the_log_and_recovers(site: Site) -> None:
    site.fail({"torchvision": "ERROR: NewConnectionError: Failed to establish a new connection"})
    with pytest.raises(InstallError, match="PyTorch could not be installed") as caught:
        site.run()
    assert "package index cannot be reached" in str(caught.value)
    assert "NewConnectionError" in str(caught.value)
    site.fail({})
    assert len(site.run()) == 3
    assert not (site.path / MARKER).exists()


def test_missing_venv_module_is_named(site: Site) -> None:
    code = "print('ensurepip is not available'); raise SystemExit(1)"
    site.installation = replace(site.installation, make_venv=(sys.executable, "-c", code))
    with pytest.raises(InstallError, match=r"sudo apt install python3\.\d+-venv"):
        site.run()


def test_uninstalled_project_comes_back(site: Site) -> None:
    site.run()
    site.change(names=["torch", "detectron2"])
    assert site.installation.plan() == Plan(everything=True)


def test_removed_environment_is_made_again(site: Site) -> None:
    site.run()
    shutil.rmtree(site.path)
    assert len(site.run()) == 3
