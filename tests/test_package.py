"""The package as a whole: what importing it costs, what a wheel holds, which way imports go."""

from __future__ import annotations

import ast
import email
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import freqfusion

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "projects" / "freqfusion"
MODULES = sorted(PACKAGE.rglob("*.py"))
# From the ground up; a module imports from its own floor and from those below.
FLOORS = (
    "layers",
    "metrics",
    "messages",
    "files",
    "config_names",
    "analysis",
    "drawing",
    "config",
    "data",
    "modeling",
    "evaluation",
    "engine",
    "model_zoo",
    "predictor",
    "tools",
)
# Parts of the package that promise to need little: (third-party packages, parts of freqfusion).
PROMISES = {
    "layers": ({"torch"}, {"layers"}),
    "metrics": ({"numpy"}, {"metrics"}),
    "analysis": ({"torch", "numpy", "matplotlib"}, {"analysis", "layers", "metrics"}),
    "drawing": ({"numpy", "PIL"}, {"drawing", "metrics"}),
    "data/synthetic": ({"numpy", "PIL", "tqdm"}, {"data", "metrics"}),
    "files.py": ({"torch", "numpy", "safetensors", "yaml"}, set()),
    "config_names.py": (set(), {"messages"}),
}
# The one place that may import Triton besides, which comes with torch on Linux: kernels for GPUs,
# loaded when a tensor on a GPU asks for them.
TRITON = "layers/neighbourhood/fused"
IMPORT_SECONDS = 2.0


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[str]:
    """Yield the absolute name of everything that a module imports anywhere."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = [*base, *(node.module.split(".") if node.module else [])]
            yield from (".".join([*prefix, alias.name]) for alias in node.names)


def floor_of(name: str) -> str:
    """Return the floor of a module of the package; the root package belongs to none."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_id(path: Path) -> str:
    return module_name(path).removeprefix("freqfusion.")


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_imports_go_down_only(path: Path) -> None:
    here = floor_of(module_name(path))
    if here not in FLOORS:
        assert path.parent == PACKAGE, f"{here!r} is no floor of the design"
        return
    for name in imported_names(path):
        assert not name.startswith("benchmarks"), f"the wheel lacks {name}"
        there = floor_of(name) if name.startswith("freqfusion.") else ""
        if there in FLOORS:
            assert FLOORS.index(there) <= FLOORS.index(here), f"{here} imports {name}"


@pytest.mark.parametrize("part", PROMISES)
def test_part_needs_only_what_it_promises(part: str) -> None:
    packages, floors = PROMISES[part]
    for path in MODULES:
        if not path.is_relative_to(PACKAGE / part):
            continue
        for name in imported_names(path):
            top = name.partition(".")[0]
            if top == "freqfusion":
                assert floor_of(name) in floors | {"_version"}, f"{path} imports {name}"
            elif top == "triton":
                assert path.is_relative_to(PACKAGE / TRITON), f"{path} imports {name}"
            else:
                assert top in packages | sys.stdlib_module_names, f"{path} imports {name}"


@pytest.fixture(scope="module")
def first_import() -> dict[str, Any]:
    """What imports in a fresh interpreter load and take, the last ones without detectron2."""
    names = [
        module_name(path)
        for path in MODULES
        if any(path.is_relative_to(PACKAGE / part) for part in [*PROMISES, "tools"])
    ]
    assert "freqfusion.tools.doctor" in names
    if importlib.util.find_spec("triton") is None:
        names = [name for name in names if TRITON.replace("/", ".") not in name]
    code = f"""
import importlib, json, sys, time
import freqfusion
found = {{"root loads torch": "torch" in sys.modules}}
import torch
before = set(sys.modules)
start = time.process_time()
freqfusion.layers
found["seconds"] = time.process_time() - start
found["dir"] = dir(freqfusion)
found["modules"] = sorted({{n.partition(".")[0] for n in set(sys.modules) - before}})
BLOCKED = ("detectron2", "fvcore", "cv2", "pycocotools", "torchvision", "timm")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(name + " is blocked")
sys.meta_path.insert(0, Block())
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps(found))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False
    )
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_import_is_cheap(first_import: dict[str, Any]) -> None:
    """Beyond torch, the package and its layers take less than two seconds, and load nothing big.

    Of the processor: on the clock other work of the machine counts too. What promises to need no
    detectron2 has been imported without it.
    """
    assert first_import["seconds"] < IMPORT_SECONDS
    heavy = {"detectron2", "matplotlib", "torchvision", "PIL", "cv2", "tqdm", "fvcore", "timm"}
    assert not heavy & set(first_import["modules"])


def test_root_import_needs_nothing(first_import: dict[str, Any]) -> None:
    """Not even torch; a subpackage comes when it is asked for."""
    assert not first_import["root loads torch"]
    assert "layers" in first_import["dir"]


def test_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        freqfusion.nonsense  # noqa: B018


def test_version_is_that_of_the_installed_distribution() -> None:
    assert freqfusion.__version__ == importlib.metadata.version("freqfusion")


def test_package_declares_its_types() -> None:
    assert (Path(freqfusion.__file__).parent / "py.typed").is_file()


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist, and a wheel built from that sdist."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("projects", "benchmarks", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=leave_out)
    out = source / "dist"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def test_archives_hold_every_module(archives: tuple[Path, Path]) -> None:
    wanted = {str(path.relative_to(PACKAGE.parent)) for path in [*MODULES, PACKAGE / "py.typed"]}
    with tarfile.open(archives[0]) as sdist:
        packed = {name.partition("/projects/")[2] for name in sdist.getnames()}
    with zipfile.ZipFile(archives[1]) as wheel:
        names = set(wheel.namelist())
    assert wanted <= packed
    assert wanted <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"freqfusion"}
    assert any(name.endswith("LICENSE") for name in names)


def test_archives_have_a_page_that_pypi_can_show(archives: tuple[Path, Path]) -> None:
    """It links and shows nothing of the checkout, which PyPI does not have."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, archives)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    with zipfile.ZipFile(archives[1]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        page = email.message_from_bytes(wheel.read(metadata)).get_payload()
    assert page.lstrip().startswith("# freqfusion")
    assert not [link for link in re.findall(r"\]\(([^)]*)\)", page) if "://" not in link]
    assert "photographs that" not in page


DOWNSTREAM = """
import torch

from freqfusion.layers import FreqFusion
from freqfusion.metrics import PanopticQuality

fusion = FreqFusion(hr_channels=8, lr_channels=8)
kernels, fine, coarse = fusion.forward(torch.ones(1, 8, 4, 4), torch.ones(1, 8, 2, 2))
total: torch.Tensor = fine + coarse
wrong: int = fusion.hr_residual and fine  # type: ignore[assignment]
FreqFusion(hr_channels="8", lr_channels=8)  # type: ignore[arg-type]
quality: int = PanopticQuality  # type: ignore[assignment]
"""


@pytest.mark.slow
def test_types_reach_a_project_that_installs_the_wheel(
    archives: tuple[Path, Path], tmp_path: Path
) -> None:
    """Without py.typed or with names of type Any, the comments that expect errors were unused."""
    venv.create(tmp_path / "venv", with_pip=False)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    zipfile.ZipFile(archives[1]).extractall(packages)
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    (tmp_path / "downstream.py").write_text(DOWNSTREAM, encoding="utf-8")
    python = tmp_path / "venv/bin/python"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python)]
    environment = {key: value for key, value in os.environ.items() if key != "MYPYPATH"}
    answer = subprocess.run(
        [*command, "downstream.py"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml", reason="yaml comes with detectron2")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert cited["version"] == freqfusion.__version__
    assert f"## [{cited['version']}] - {cited['date-released']}\n" in changes
    assert [one["year"] for one in cited["references"]] == [2024, 2025]
