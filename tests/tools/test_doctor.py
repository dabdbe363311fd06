"""The doctor: what it makes of facts made up by hand, and one look at the machine of the tests."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import freqfusion
from freqfusion.tools import doctor
from freqfusion.tools._doctor import diagnosis, facts, probes, requirements
from freqfusion.tools._doctor.check import Check
from freqfusion.tools._doctor.check_gpu import runs_on
from freqfusion.tools._doctor.facts import Facts, Package
from freqfusion.tools._doctor.probes import Probe

COMMIT = "a" * 40
URL = f"git+https://host/detectron2.git@{COMMIT}"
REQUIRES = (
    "torch!=2.13.*,<2.16,>=2.11",
    "numpy>=1.26",
    "Pillow>=10",
    f'detectron2 @ {URL} ; extra == "detectron2"',
    'torchvision!=0.28.*,<0.30,>=0.26; extra == "detectron2"',
    'setuptools<81,>=77.0.3; extra == "detectron2"',
    'opencv-python-headless>=4.9; extra == "detectron2"',
    'timm>=1.0; extra == "timm"',
    'pytest>=8; extra == "dev"',
    'freqfusion[onnx]; extra == "dev"',
)
VERSIONS = {
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "setuptools": "80.10.2",
    "numpy": "2.4.6",
    "pillow": "13.0.0",
    "matplotlib": "3.11.2",
    "tqdm": "4.70.1",
    "fvcore": "0.1.5",
    "pycocotools": "2.0.11",
    "opencv-python-headless": "5.0.0",
}


def vcs(commit: str) -> dict[str, Any]:
    return {"url": "https://host/detectron2.git", "vcs_info": {"vcs": "git", "commit_id": commit}}


def healthy() -> Facts:
    """Return the facts of a machine on which all is well; timm and ONNX are not installed."""
    packages = {name: Package(name, version) for name, version in VERSIONS.items()}
    packages["freqfusion"] = Package("freqfusion", freqfusion.__version__, REQUIRES, ">=3.11,<3.14")
    packages["detectron2"] = Package("detectron2", "0.6", ("Pillow>=7.1",), "", vcs(COMMIT))
    return Facts(
        python="3.11.7",
        executable="/opt/my env/bin/python",
        system="Linux",
        source="/src/projects/freqfusion",
        packages=packages,
        probes={
            "torch": Probe({"version": "2.15.0", "cuda_build": "13.0", "devices": []}),
            "detectron2": Probe({"path": "/site/detectron2", "compiled": "GCC 12.2"}),
        },
        compiler="c++ 12",
        git="git version 2",
        headers=True,
        nvidia=False,
        detectron2_required=False,
    )


def without(machine: Facts, *names: str) -> Facts:
    packages = {name: item for name, item in machine.packages.items() if name not in names}
    tried = {name: item for name, item in machine.probes.items() if name not in names}
    return replace(machine, packages=packages, probes=tried)


def with_version(machine: Facts, name: str, version: str, *wants: str) -> Facts:
    return replace(machine, packages={**machine.packages, name: Package(name, version, wants)})


def with_probe(machine: Facts, name: str, probe: Probe) -> Facts:
    return replace(machine, probes={**machine.probes, name: probe})


def judge(machine: Facts, name: str) -> Check:
    return next(check for check in diagnosis.diagnose(machine) if check.name == name)


def test_healthy_machine() -> None:
    checks = diagnosis.diagnose(healthy())
    wrong = {check.name for check in checks if check.status != "ok"}
    assert wrong == {"timm", "onnx", "onnxscript", "onnxruntime", "triton"}
    assert doctor.all_well(checks)


def test_remedy_is_quoted_for_the_shell_and_names_the_running_python() -> None:
    check = judge(without(healthy(), "numpy"), "numpy")
    assert check.status == "missing"
    assert check.required
    words = shlex.split(check.remedy)
    assert words == ["/opt/my env/bin/python", "-m", "pip", "install", "numpy>=1.26"]


def test_missing_torch_is_installed_with_all_three_pins() -> None:
    words = shlex.split(judge(without(healthy(), "torch"), "torch").remedy)
    assert [word.partition("!")[0].partition("<")[0] for word in words[4:]] == [
        "torch",
        "torchvision",
        "setuptools",
    ]


@pytest.mark.parametrize(
    ("name", "version", "word"),
    [
        ("torch", "2.13.0+cpu", "CPU-only torch 2.13"),
        ("torch", "2.9.1", "freqfusion declares"),
        ("torchvision", "0.28.0", "belongs to torch 2.13"),
        ("setuptools", "82.0.0", "pkg_resources"),
    ],
)
def test_known_bad_versions(name: str, version: str, word: str) -> None:
    check = judge(with_version(healthy(), name, version), name)
    assert check.status == "mismatch"
    assert word in check.reason
    assert "setuptools<81" in check.remedy


def test_torchvision_for_another_torch() -> None:
    machine = with_version(healthy(), "torchvision", "0.29.2", "torch (==2.14.0)")
    check = judge(machine, "torchvision")
    assert check.status == "mismatch"
    assert check.reason == "torchvision 0.29.2 wants torch==2.14.0, and torch 2.15.0 is here"


def test_package_that_does_not_load() -> None:
    error = "RuntimeError: operator torchvision::nms does not exist"
    check = judge(with_probe(healthy(), "torchvision", Probe(error=error)), "torchvision")
    assert (check.status, check.reason) == ("broken", error)
    assert "--force-reinstall" in check.remedy


def test_another_opencv_serves() -> None:
    machine = without(healthy(), "opencv-python-headless")
    packages = {**machine.packages, "opencv-python-headless": Package("opencv-python", "4.12.0")}
    check = judge(replace(machine, packages=packages), "opencv-python-headless")
    assert (check.status, check.found) == ("ok", "4.12.0 (opencv-python)")


def test_detectron2_is_optional_unless_it_is_demanded() -> None:
    machine = without(healthy(), "detectron2")
    check = judge(machine, "detectron2")
    assert (check.status, check.required) == ("missing", False)
    assert shlex.split(check.remedy)[-2:] == ["--no-build-isolation", f"detectron2 @ {URL}"]
    assert doctor.all_well(diagnosis.diagnose(machine))
    demanding = replace(machine, detectron2_required=True)
    assert judge(demanding, "detectron2").required
    assert not doctor.all_well(diagnosis.diagnose(demanding))


def test_what_is_missing_of_an_extra_comes_in_one_command() -> None:
    machine = without(healthy(), "detectron2", "opencv-python-headless")
    command = judge(machine, "detectron2").remedy
    assert shlex.split(command)[-2:] == [f"detectron2 @ {URL}", "opencv-python-headless>=4.9"]
    assert judge(machine, "opencv-python-headless").remedy == command
    only = judge(without(healthy(), "opencv-python-headless"), "opencv-python-headless").remedy
    assert "detectron2" not in only


def test_pins_of_detectron2_do_not_bother_who_has_none() -> None:
    """A setuptools that detectron2 could not live with is no defect where it is absent."""
    newer = with_version(healthy(), "setuptools", "84.0")
    assert not judge(newer, "setuptools").optional
    machine = without(newer, "detectron2")
    assert judge(machine, "setuptools").optional
    text = doctor.render(machine, diagnosis.diagnose(machine))
    assert "To mend it:" not in text
    assert "optional  setuptools" in text


def test_opencv_is_demanded_together_with_detectron2() -> None:
    machine = replace(without(healthy(), "opencv-python-headless"), detectron2_required=True)
    assert not doctor.all_well(diagnosis.diagnose(machine))


def test_detectron2_at_another_commit() -> None:
    other = Package("detectron2", "0.6", (), "", vcs("b" * 40))
    machine = replace(healthy(), packages={**healthy().packages, "detectron2": other})
    check = judge(machine, "detectron2")
    assert check.status == "mismatch"
    assert COMMIT in check.reason
    assert "--no-cache-dir" in check.remedy


def test_detectron2_from_a_wheel_cannot_be_compared() -> None:
    origin = {"url": "file:///wheels/detectron2.whl", "archive_info": {}}
    package = Package("detectron2", "0.6", (), "", origin)
    machine = replace(healthy(), packages={**healthy().packages, "detectron2": package})
    check = judge(machine, "detectron2")
    assert check.status == "ok"
    assert "from file:///wheels/detectron2.whl" in check.found


def test_detectron2_built_against_another_torch() -> None:
    error = "_C.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c10"
    probe = Probe({"path": "/site/detectron2", "compiled": None, "error": error})
    check = judge(with_probe(healthy(), "detectron2", probe), "detectron2")
    assert check.status == "broken"
    assert "built against another PyTorch" in check.reason
    for option in ("--no-build-isolation", "--no-cache-dir", "--no-deps"):
        assert option in check.remedy


def test_detectron2_without_its_compiled_part_is_fine() -> None:
    probe = Probe({"path": "/site/detectron2", "compiled": None})
    check = judge(with_probe(healthy(), "detectron2", probe), "detectron2")
    assert check.status == "ok"
    assert "without its compiled part" in check.found


@pytest.mark.parametrize(
    ("error", "last"),
    [
        ("ModuleNotFoundError: No module named 'cv2'", "opencv-python-headless>=4.9"),
        ("ModuleNotFoundError: No module named 'iopath.common'", "iopath"),
        ("ModuleNotFoundError: No module named 'detectron2.config'", f"detectron2 @ {URL}"),
        ("SyntaxError: invalid syntax", f"detectron2 @ {URL}"),
    ],
)
def test_detectron2_that_cannot_be_imported(error: str, last: str) -> None:
    check = judge(with_probe(healthy(), "detectron2", Probe(error=error)), "detectron2")
    assert (check.status, check.reason) == ("broken", error)
    assert shlex.split(check.remedy)[-1] == last


def test_detectron2_in_the_current_folder_is_told_from_an_installed_one() -> None:
    machine = without(healthy(), "detectron2")
    machine = with_probe(machine, "detectron2", Probe({"path": "/here/detectron2"}))
    check = judge(machine, "detectron2")
    assert check.status == "mismatch"
    assert "/here/detectron2" in check.reason


def test_cpu_torch_beside_an_nvidia_gpu() -> None:
    facts_of_torch = {"version": "2.15.0+cpu", "cuda_build": None, "devices": []}
    machine = with_probe(replace(healthy(), nvidia=True), "torch", Probe(facts_of_torch))
    check = judge(machine, "GPU")
    assert check.status == "mismatch"
    assert "CPU only" in check.reason
    assert "--force-reinstall" in check.remedy


def test_gpu_whose_driver_is_too_old() -> None:
    facts_of_torch = {"cuda_build": "13.0", "devices": [], "cuda_error": "driver is too old"}
    machine = with_probe(replace(healthy(), nvidia=True), "torch", Probe(facts_of_torch))
    check = judge(machine, "GPU")
    assert (check.status, check.reason) == ("mismatch", "driver is too old")
    assert "CUDA 13.0" in check.remedy


@pytest.mark.parametrize(("arch", "status"), [("sm_90", "ok"), ("sm_100", "mismatch")])
def test_gpu_that_torch_has_code_for(arch: str, status: str) -> None:
    facts_of_torch = {"cuda_build": "13.0", "devices": [["H200", 9, 0]], "arches": [arch]}
    assert judge(with_probe(healthy(), "torch", Probe(facts_of_torch)), "GPU").status == status


@pytest.mark.parametrize(
    ("capability", "arches", "expected"),
    [
        ([9, 0], ["sm_80", "sm_90"], True),
        ([8, 6], ["sm_80"], True),
        ([8, 0], ["sm_86"], False),
        ([9, 0], ["sm_80"], False),
        ([9, 0], ["compute_80"], True),
        ([9, 0], ["sm_90a"], True),
        ([12, 0], ["sm_120"], True),
        ([9, 0], ["gfx90a"], False),
    ],
)
def test_architectures(capability: list[int], arches: list[str], expected: bool) -> None:
    assert runs_on(capability, arches) is expected


def test_unsupported_python() -> None:
    check = judge(replace(healthy(), python="3.10.1"), "Python")
    assert check.status == "mismatch"
    assert check.required


def test_package_that_is_not_installed_itself() -> None:
    machine = without(healthy(), "freqfusion")
    assert judge(machine, "freqfusion").status == "missing"
    assert not doctor.all_well(diagnosis.diagnose(machine))


def test_stale_metadata() -> None:
    machine = with_version(healthy(), "freqfusion", "0.0.1", *REQUIRES)
    assert judge(machine, "freqfusion").status == "mismatch"


@pytest.mark.parametrize("name", ["compiler", "git"])
def test_tools_matter_while_detectron2_is_absent(name: str) -> None:
    title = {"compiler": "C++ compiler", "git": "git"}[name]
    machine = replace(healthy(), **{name: None}, detectron2_required=True)
    assert not judge(machine, title).required
    check = judge(without(machine, "detectron2"), title)
    assert (check.status, check.required) == ("missing", True)
    assert check.remedy


def test_a_check_that_raises_is_reported() -> None:
    """Also a requirement that cannot be read does not end the report."""

    def fail() -> Check:
        raise RuntimeError("no way")

    check = diagnosis.guarded("torch", fail)
    assert (check.name, check.status, check.required) == ("torch", "broken", True)
    assert "no way" in check.reason
    machine = with_version(healthy(), "freqfusion", freqfusion.__version__, "%%%")
    checks = diagnosis.diagnose(machine)
    assert checks[0].status == "broken"
    assert not doctor.all_well(checks)


def test_report_lists_each_command_once() -> None:
    machine = without(healthy(), "torch", "torchvision", "setuptools")
    checks = diagnosis.diagnose(machine)
    text = doctor.render(machine, checks)
    assert text.count(judge(machine, "torch").remedy) == 1
    mend, optional = text.split("To add what is optional:")
    assert "torch!=2.13" in mend.split("To mend it:")[1]
    assert "timm>=1.0" in optional
    assert text.endswith("Something that is required is missing or does not fit.")


def test_verdict_mentions_what_is_optional_and_broken() -> None:
    machine = with_probe(healthy(), "detectron2", Probe(error="SyntaxError"))
    text = doctor.render(machine, diagnosis.diagnose(machine))
    assert text.endswith("required is fine; something that is optional does not fit.")
    text = doctor.render(healthy(), diagnosis.diagnose(healthy()))
    assert text.endswith("Everything that is required is fine.")


# Requirements and probes


def test_pins_are_sorted_by_extra() -> None:
    pins = requirements.read_pins(REQUIRES)
    assert pins["torch"].extra == ""
    assert pins["pillow"].text == "Pillow>=10"
    assert pins["timm"].extra == "timm"
    assert pins["detectron2"].text == f"detectron2 @ {URL}"
    assert "pytest" not in pins
    assert "freqfusion" not in pins


def test_unmet_requirements_pass_over_what_is_absent() -> None:
    wants = ['a>=2; python_version > "3"', 'b>=2; extra == "x"', "c>=1", "d>=2"]
    found = requirements.unmet(wants, {"a": "1", "b": "1", "d": "3"})
    assert found == [("a", "a>=2")]


def test_probe_returns_its_facts() -> None:
    assert probes.run_probe("facts = {'one': 1}\nprint('noise')") == Probe({"one": 1})


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import os; os._exit(3)", "status 3"),
        ("import os; os.abort()", "SIGABRT"),
        ("facts = object()", "not JSON serializable"),
    ],
)
def test_probe_reports_what_goes_wrong(code: str, word: str) -> None:
    assert word in probes.run_probe(code).error


def test_probe_does_not_wait_for_ever() -> None:
    assert "did not finish" in probes.run_probe("import time; time.sleep(9)", timeout=0.3).error


def test_answers_that_cannot_be_read() -> None:
    assert "cannot be read" in probes.read_answer(0, "nonsense", "").error
    assert "signal 99" in probes.read_answer(-99, "", "").error
    assert signal.SIGSEGV.name in probes.read_answer(-signal.SIGSEGV, "", "").error


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_unreadable_origin_is_empty(text: str | None) -> None:
    assert facts.read_origin(text) == {}


def test_damaged_metadata_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(name: str) -> Package:
        raise OSError(name)

    monkeypatch.setattr(facts, "find_package", damaged)
    packages, unreadable = facts.find_packages()
    assert packages["torch"].version == "unknown"
    assert "cannot be read" in unreadable["torch"].error


# The command line


def run_doctor(monkeypatch: pytest.MonkeyPatch, machine: Facts, *arguments: str) -> int:
    monkeypatch.setattr(doctor, "gather", lambda: machine)
    return doctor.main(arguments)


def test_exit_status_and_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_doctor(monkeypatch, healthy(), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    torch = next(check for check in report["checks"] if check["name"] == "torch")
    assert torch["found"] == "2.15.0"
    assert run_doctor(monkeypatch, without(healthy(), "torch")) == 1
    assert "missing   torch" in capsys.readouterr().out


def test_doctor_runs_where_torch_is_broken(tmp_path: Path) -> None:
    """A torch that raises at import is one line of the report, in text and in the exit status."""
    (tmp_path / "torch.py").write_text("raise OSError('libtorch is damaged')", encoding="utf-8")
    answer = subprocess.run(
        [sys.executable, "-m", "freqfusion.tools.doctor", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    checks = {check["name"]: check for check in json.loads(answer.stdout)["checks"]}
    assert answer.returncode == 1
    assert checks["torch"]["status"] == "broken"
    assert "libtorch is damaged" in checks["torch"]["reason"]
