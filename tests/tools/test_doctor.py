"""The doctor: what it says of machines made up by hand, and how it tries things out."""

import importlib.metadata
import shlex
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

import freqfusion
from freqfusion.tools import doctor

URL = f"git+https://host/detectron2.git@{'a' * 40}"
# As packaging writes it: older versions leave out the first space.
DETECTRON2 = str(Requirement(f"detectron2 @ {URL}"))
REQUIRES = [
    "torch!=2.13.*,<2.16,>=2.11",
    "numpy>=1.26",
    "Pillow>=10",
    f'detectron2 @ {URL} ; extra == "detectron2"',
    'torchvision!=0.28.*,<0.30,>=0.26; extra == "detectron2"',
    'setuptools<81,>=77.0.3; extra == "detectron2"',
    'opencv-python-headless>=4.9; extra == "detectron2"',
    'timm>=1.0; extra == "timm"',
    'later>=1; python_version >= "9" and extra == "later"',
    'pytest>=8; extra == "dev"',
    'freqfusion[onnx]; extra == "dev"',
]
VERSIONS = {
    "freqfusion": freqfusion.__version__,
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "setuptools": "80.10.2",
    "numpy": "2.4.6",
    "pillow": "13.0.0",
    "detectron2": "0.6",
    "opencv-python-headless": "5.0.0",
}


class Machine:
    """A machine on which all is well but for timm; ``errors`` are those of trials, by package."""

    def __init__(self, monkeypatch):
        self.versions, self.errors = dict(VERSIONS), {}
        codes = {**doctor.TRIALS, "layers": doctor.LAYERS, "env": "env"}
        self.names = {code: name for name, code in codes.items()}
        monkeypatch.setattr(doctor, "installed_version", lambda name: self.versions.get(name, ""))
        monkeypatch.setattr(doctor, "attempt", self.attempt)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIRES)
        monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
        monkeypatch.setattr(sys, "executable", "/my env/python")
        monkeypatch.delenv("FREQFUSION_REQUIRE_DETECTRON2", raising=False)

    def attempt(self, code):
        return "", self.errors.get(self.names.get(code, "env"), "")

    def without(self, *names):
        for name in names:
            del self.versions[name]
            self.errors[name] = f"ModuleNotFoundError: No module named '{name}'"

    def check(self, name):
        return next(one for one in doctor.diagnose() if one.name == name)

    def commands(self):
        """The words after ``pip install`` of each command that fixes what is not optional."""
        text = doctor.render(doctor.diagnose()).partition("To add what is optional")[0]
        lines = text.partition("To fix it:")[2].splitlines()
        assert all(
            shlex.split(one)[:4] == ["/my env/python", "-m", "pip", "install"]
            for one in lines
            if one
        )
        return [shlex.split(one)[4:] for one in lines if one]


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_healthy_machine(machine, capsys):
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "To fix it" not in said
    assert "missing   timm" in said
    assert said.endswith("pip install 'timm>=1.0'\n\nEverything that is required is fine.\n")
    assert "pytest" not in said
    assert "later" not in said


@pytest.mark.parametrize(
    ("name", "version"),
    [("torch", "2.9.1"), ("setuptools", "82")],
)
def test_versions_outside_the_declared_range(machine, name, version):
    """The three that belong together are installed in one command."""
    machine.versions[name] = version
    assert machine.check(name).status == "mismatch"
    assert ("pkg_resources" in machine.check(name).detail) == (name == "setuptools")
    (words,) = machine.commands()
    assert [doctor.re.match(r"\w+", word)[0] for word in words] == list(doctor.FOUNDATION)


def test_missing_packages(machine, capsys):
    machine.without("numpy", "pillow")
    assert machine.commands() == [["numpy>=1.26"], ["Pillow>=10"]]
    assert doctor.main([]) == 1
    assert "Not everything that is required is fine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "error", "reason", "words"),
    [
        ("numpy", "ImportError: bad", "ImportError: bad", ["--force-reinstall", "numpy>=1.26"]),
        (
            "torchvision",
            "RuntimeError: operator torchvision::nms does not exist",
            "it was built for another PyTorch: RuntimeError: operator torchvision::nms does not"
            " exist",
            ["--force-reinstall", REQUIRES[0], *(line.partition(";")[0] for line in REQUIRES[4:6])],
        ),
        (
            "detectron2",
            "ImportError: _C.so: undefined symbol: _ZN3c10",
            "it was built for another PyTorch: ImportError: _C.so: undefined symbol: _ZN3c10",
            [
                "--no-build-isolation",
                "--force-reinstall",
                "--no-deps",
                "--no-cache-dir",
                DETECTRON2,
            ],
        ),
    ],
)  # fmt: skip
def test_packages_that_do_not_load(machine, name, error, reason, words):
    machine.errors[name] = error
    check = machine.check(name)
    assert check.status == "broken"
    assert check.detail.endswith(reason)
    assert machine.commands() == [words]


def test_another_opencv_serves(machine):
    del machine.versions["opencv-python-headless"]
    assert machine.check("opencv-python-headless").status == "ok"
    machine.without("numpy")
    machine.errors["opencv-python-headless"] = "ModuleNotFoundError: No module named 'cv2'"
    assert machine.check("opencv-python-headless").status == "missing"


def test_detectron2_is_optional_unless_it_is_demanded(machine, monkeypatch, capsys):
    machine.without("detectron2", "opencv-python-headless")
    machine.versions["setuptools"] = "84"
    assert machine.commands() == [], "a setuptools that Detectron2 could not live with is no defect"
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert f"pip install --no-build-isolation '{DETECTRON2}'" in said
    assert "'opencv-python-headless>=4.9'" in said
    monkeypatch.setenv("FREQFUSION_REQUIRE_DETECTRON2", "1")
    assert doctor.main([]) == 1


def test_gpu_that_pytorch_does_not_use(machine, monkeypatch):
    assert machine.check("layers").status == "ok"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor, "attempt", lambda code: ("plain torch on cpu", ""))
    check = machine.check("layers")
    assert (check.status, check.need) == ("mismatch", "wanted")
    assert "update its driver" in check.remedy


def test_layers_and_their_kernels(machine, monkeypatch, capsys):
    monkeypatch.setenv("FREQFUSION_KERNELS", "torch")
    assert "FREQFUSION_KERNELS=torch" in machine.check("layers").detail
    machine.errors["layers"] = "RuntimeError: FREQFUSION_KERNELS=triton needs tensors on a GPU"
    assert machine.check("layers").remedy == "unset FREQFUSION_KERNELS"
    assert doctor.main([]) == 1


def test_metadata_of_another_version(machine):
    machine.versions["freqfusion"] = "0.0.1"
    assert "0.0.1" in machine.check("freqfusion").detail
    del machine.versions["freqfusion"]
    assert machine.check("freqfusion").detail.endswith("not installed")
    assert "-e" in machine.check("freqfusion").remedy


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('one')", ("one", "")),
        ("import os; os._exit(3)", ("", "the interpreter ended with status 3")),
        ("raise OSError('first\\nsecond')", ("", "OSError: first")),
    ],
)
def test_attempts(code, expected):
    assert doctor.attempt(code) == expected


def test_attempt_does_not_wait_for_ever():
    assert "did not finish" in doctor.attempt("import time; time.sleep(9)", timeout=0.3)[1]


def test_doctor_runs_where_torch_is_broken(tmp_path):
    """A torch that raises at import is one line of the report, and the exit code says it."""
    (tmp_path / "torch.py").write_text("raise OSError('libtorch is damaged')", encoding="utf-8")
    command = [sys.executable, "-m", "freqfusion.tools.doctor"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert answer.returncode == 1, answer.stderr
    assert "broken    torch " in answer.stdout
    assert "OSError: libtorch is damaged" in answer.stdout
