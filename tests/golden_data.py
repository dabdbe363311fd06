"""Access to the reference data, driven by its manifest.

The folder is ``FREQFUSION_GOLDEN`` (default ``tests/golden``); any folder of the same kind works.
"""

import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(os.environ.get("FREQFUSION_GOLDEN") or Path(__file__).parent / "golden").resolve()


@functools.cache
def manifest():
    path = FOLDER / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no reference data: {path} does not exist. Set FREQFUSION_GOLDEN to a folder with a "
            "manifest.json, or unset it."
        )
    return json.loads(path.read_text(encoding="utf-8"))


@functools.cache
def reference_keys():
    return json.loads((FOLDER / "keys.json").read_text(encoding="utf-8"))


class Case:
    """One file of the reference data with its entry in the manifest."""

    def __init__(self, entry):
        self.entry = entry
        self.id = entry["id"]
        self.ctor = dict(entry.get("ctor", {}))
        self.inputs = list(entry.get("inputs", {}))
        self.outputs = list(entry.get("outputs", {}))

    @functools.cached_property
    def arrays(self):
        arrays = {}
        for origin in ("params_and_inputs_from", "params_from"):
            if origin in self.entry:
                groups = ("param/", "in/") if origin == "params_and_inputs_from" else ("param/",)
                other = load(self.entry[origin])
                arrays |= {k: v for k, v in other.items() if k.startswith(groups)}
        return arrays | load(self.entry["file"], self.entry["sha256"])

    def group(self, name):
        """All tensors of one group by their names."""
        prefix = name + "/"
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def check(self, name, actual, expected):
        """Compare at the manifest's tolerance, ``|a - b| <= atol + rtol * |b|``."""
        tolerance = self.entry["tolerance"][name]
        assert actual.shape == expected.shape
        excess = (actual - expected).abs() - tolerance["rtol"] * expected.abs()
        assert excess.max().item() <= tolerance["atol"], f"{self.id}: {name}"

    @property
    def object(self):
        """Name of the reference class or function, the module of its repository before it."""
        reference = self.entry["reference"]
        reference = reference if isinstance(reference, dict) else reference[0]
        return reference["object"]

    @property
    def path(self):
        return self.entry["reference"]["path"]


def load(file, sha256=None):
    data = (FOLDER / file).read_bytes()
    if sha256 is not None:
        assert hashlib.sha256(data).hexdigest() == sha256, f"{file} is not the recorded file"
    with np.load(FOLDER / file, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def cases(group, object_name):
    """All cases of a set whose reference object begins with a name."""
    found = [case for case in _all_cases(group) if case.object.startswith(object_name)]
    if not found:
        raise LookupError(f"{FOLDER} has no case of {object_name} in set {group}")
    return found


def cases_of(group, *object_names):
    """All cases of a set whose reference object is one of some names."""
    found = [case for case in _all_cases(group) if case.object in object_names]
    if not found:
        raise LookupError(f"{FOLDER} has no case of {object_names} in set {group}")
    return found


def _all_cases(group):
    entries = [e for e in manifest()["files"] if e["set"] == group and e["file"].endswith(".npz")]
    return list(map(Case, entries))


def compare_outputs(case, run):
    """Compare ``run(dtype)``, outputs by name, in float32 and, where recorded, in float64."""
    actual, expected = run(torch.float32), case.group("out")
    for name in case.outputs:
        case.check(name, actual[name], expected[name])
    exact = case.group("out64")
    if exact:
        actual = run(torch.float64)
        for name, value in exact.items():
            if value.dtype == torch.float64 and name in actual:
                torch.testing.assert_close(actual[name], value, atol=1e-9, rtol=0)


def compare_gradients(case, outputs, inputs, parameters):
    """Compare the gradients of the recorded loss, by names of the reference."""
    signs = case.group("lossw")
    loss = sum((outputs[name] * sign).sum() / sign.numel() ** 0.5 for name, sign in signs.items())
    if "loss" in case.group("out"):
        case.check("loss", loss, case.group("out")["loss"])
    loss.backward()
    gradients = {f"in_{name}": value.grad for name, value in inputs.items()}
    gradients |= {f"param_{name}": value.grad for name, value in parameters.items()}
    expected = case.group("grad")
    assert set(gradients) == set(expected)
    for name, value in expected.items():
        case.check(f"grad/{name}", gradients[name], value)
