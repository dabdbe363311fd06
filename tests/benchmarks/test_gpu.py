"""The benchmark for GPUs, run on the CPU: every part on tiny maps, and what it says without one."""

import pytest
import torch

from benchmarks import gpu
from benchmarks.operator_suites import Size


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = tmp_path / "gpu.json"
    assert gpu.main(["--output", str(file)]) == 2
    assert capsys.readouterr().err == "gpu: torch finds no GPU here, so nothing was measured\n"
    assert not file.exists()


def test_operators_and_module_on_the_cpu(monkeypatch):
    """Three operators in two types and formats, FreqFusion in three forms, two ways and types."""
    monkeypatch.setattr(gpu, "MODEL_CASES", {})
    monkeypatch.setattr(torch, "compile", lambda module: module)
    found = list(gpu.rows("cpu", Size(8, 4, 6), 1))
    assert [row.get("error") for row in found] == [None] * 24
    assert all(row["ms"] > 0 and row["peak_mib"] is None for row in found)
    assert [row["gb_per_s"] is None for row in found] == ([False] * 6 + [True] * 6) * 2
    gather = found[0]
    # 8 channels of 4x6 and 25 kernels of 8x12 in, 8 channels of 8x12 out, 4 bytes each.
    moved = 4 * (8 * 24 + 25 * 96 + 8 * 96)
    assert gather["gb_per_s"] == pytest.approx(moved / gather["ms"] / 1e6)
    assert "operator, gather, default, float32: " in gpu.describe(gather)


def test_what_fails_is_a_row():
    def fail():
        raise RuntimeError("out of memory\nmore")

    key = {"part": "operator", "case": "gather", "form": "default", "dtype": "float32"}
    row = gpu.measure(key, lambda: fail, fail, "cpu", 1)
    assert row == {**key, "error": "out of memory"}
    assert gpu.describe(row) == "operator, gather, default, float32: out of memory"


@pytest.mark.detectron2
def test_a_model_on_the_cpu():
    case = gpu.MODEL_CASES["semantic FPN with FreqFusion, training step"]
    call = gpu.model(case, Size(8, 8, 8), "cpu", "bfloat16", True)
    (loss,) = call()
    assert loss.isfinite()
