"""The forms that ours are compared with; they live in the tests of a checkout."""

import importlib.util
from pathlib import Path
from types import ModuleType

import freqfusion


def load_unfold_forms() -> ModuleType:
    """The unfold forms of reassembly and fusion."""
    return load_oracle("unfold")


def load_oracle(name: str) -> ModuleType:
    """Import ``tests/oracles/<name>.py`` of the checkout that freqfusion was installed from."""
    path = checkout() / "tests" / "oracles" / f"{name}.py"
    if not path.is_file():
        raise FileNotFoundError(
            f"benchmarks compare with the slow forms in the repository's tests, and {path} does "
            "not exist. Clone the repository, run 'make install' there, and use its environment."
        )
    spec = importlib.util.spec_from_file_location(f"freqfusion_{name}_forms", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkout() -> Path:
    """The folder of the repository, if freqfusion is used from one."""
    return Path(freqfusion.__file__).resolve().parents[2]
