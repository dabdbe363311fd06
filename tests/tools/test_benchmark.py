"""The benchmark on tiny maps: rows, agreement of the forms, floors, memory, clear errors."""

import json
import statistics
from functools import partial

import pytest
import torch

from freqfusion.tools import benchmark
from freqfusion.tools._benchmark import floors, measuring, memory, oracle, suites, timing
from freqfusion.tools._benchmark.suite import WARM_UP, Size, Suite

TINY = ["--channels", "8", "--height", "4", "--width", "5", "--runs", "2", "--threads", "1"]


def test_prints_a_table_and_writes_the_rows(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert benchmark.main([*TINY, "--output", str(file), "fusion"]) == 0
    record = json.loads(file.read_text())
    assert [(row["suite"], row["case"]) for row in record["rows"]] == [
        ("fusion", "forward"),
        ("fusion", "forward + backward"),
    ]
    for row in record["rows"]:
        assert len(row["ours_ms"]) == len(row["reference_ms"]) == 2
        expected = statistics.median(row["reference_ms"]) / statistics.median(row["ours_ms"])
        assert row["speedup"] == pytest.approx(expected, rel=1e-2)
        assert row["copy_gb_per_s"] > 0
        rate = row["floor_bytes"] / statistics.median(row["ours_ms"]) / 1e6
        assert row["achieved_gb_per_s"] == pytest.approx(rate, rel=1e-2)
    printed = capsys.readouterr().out
    assert "8 channels, 4x5 to 8x10" in printed
    assert f"{record['rows'][0]['speedup']:.2f}" in printed


def test_sizes_are_those_of_images(tmp_path, capsys):
    """64 pixels of image are 16 of the fine map and 8 of the coarse one."""
    file = tmp_path / "rows.json"
    arguments = [*TINY, "--output", str(file), "reassemble", "--sizes", "64", "128"]
    assert benchmark.main(arguments) == 0
    rows = json.loads(file.read_text())["sizes"]
    assert [row["image"] for row in rows] == [64, 128, 64, 128]
    for row in rows:
        expected = 1e6 * statistics.median(row["ours_ms"]) / row["image"] ** 2
        assert row["ns_per_pixel"] == pytest.approx(expected, rel=1e-2)
    assert "128" in capsys.readouterr().out


def test_append_keeps_what_is_not_measured_again(tmp_path):
    file = tmp_path / "rows.json"
    run = [*TINY, "--output", str(file), "--append"]
    assert benchmark.main([*run, "reassemble", "--sizes", "64"]) == 0
    assert benchmark.main([*run, "panoptic-quality"]) == 0
    first = json.loads(file.read_text())
    assert benchmark.main([*run, "reassemble", "--sizes", "64", "128"]) == 0
    second = json.loads(file.read_text())
    assert [row["suite"] for row in second["rows"]] == ["panoptic-quality"]
    assert second["rows"] == first["rows"]
    assert [row["image"] for row in second["sizes"]] == [64, 64, 128, 128]


def test_a_record_of_another_schema(tmp_path, capsys):
    file = tmp_path / "rows.json"
    file.write_text('{"schema": 0}')
    assert benchmark.main(["--only-docs", "--output", str(file)]) == 2
    assert "has schema 0, not 1; measure anew" in capsys.readouterr().err


def test_floors_by_hand():
    """2 channels, 3x1 coarse and 6x2 fine pixels: p = 3, q = 12.

    Reassembly reads 2 * 3 features and 25 * 12 kernels and writes 2 * 12 values; each value takes
    25 multiply-adds.
    """
    size = Size(2, 3, 1)
    assert floors.reassembly_floor(size, "forward") == (4 * (6 + 300 + 24), 2 * 25 * 24)
    both = floors.reassembly_floor(size, "forward + backward")
    assert both == (4 * (330 + 24 + 2 * 306), 3 * 2 * 25 * 24)
    assert floors.demodulation_floor(size, "forward") == (4 * 12 * 6, 12 * (40 + 16))
    assert floors.panoptic_quality_floor(size, "one image") == (8 * 24 * 8, 2 * 24 * 8)


def test_floor_of_the_fusion_counts_what_its_convolutions_do():
    """Multiply-adds of all convolutions, by hooks, are most of the floor and not above it."""
    size, counted = Size(16, 6, 8), [0]

    def count(module, inputs, output):
        counted[0] += output[0].numel() * module.weight[0].numel()

    module = torch.nn.modules.module.register_module_forward_hook(
        lambda m, i, o: count(m, i, o) if isinstance(m, torch.nn.Conv2d) else None
    )
    try:
        suites.fusion(size, ours=False, backward=False)()
    finally:
        module.remove()
    floor = floors.fusion_floor(size, "forward").operations
    assert 0.5 * floor < 2 * counted[0] < floor


SAME = [
    (suite, case)
    for suite, chosen in suites.SUITES.items()
    for case in chosen.cases
    if chosen.is_same
]


@pytest.mark.parametrize(("suite", "case"), SAME)
def test_forms_that_disagree_are_not_timed(suite, case, monkeypatch):
    chosen = suites.SUITES[suite]
    right = chosen.cases[case]

    def wrong(size, *, ours):
        call = right(size, ours=ours)
        return (lambda: tuple(t + 0.1 for t in call())) if ours else call

    monkeypatch.setitem(suites.SUITES, suite, Suite({case: wrong}, chosen.reference))
    with pytest.raises(AssertionError, match="not close"):
        measuring.measure(suite, case, WARM_UP, runs=1, threads=1)


@pytest.mark.parametrize("suite", ["panoptic-quality", "data"])
def test_suites_of_images(suite):
    row = measuring.measure(suite, "one image", WARM_UP, runs=1, threads=1)
    assert row["size"] == "32x32 pixels"
    assert row["ours_extra_bytes"] is None


@pytest.mark.parametrize("case", ["Mask2Former with FreqFusion, training step"])
def test_a_model_with_and_without(case):
    pytest.importorskip("detectron2")
    row = measuring.measure("models", case, Size(8, 8, 8), runs=1, threads=1)
    assert row["floor_bytes"] is None
    assert row["reference"] == "the same model without"


def test_spread_is_that_of_the_ratios():
    """Ratios 1 to 5: quartiles 2 and 4."""
    comparison = timing.Comparison([1.0] * 5, [3.0, 1.0, 5.0, 2.0, 4.0])
    assert comparison.spread == (2.0, 4.0)
    assert timing.quartiles([7.0]) == (7.0, 7.0)


def test_forms_alternate():
    order = []
    result = timing.compare(lambda: order.append("ours"), lambda: order.append("reference"), 3)
    assert order == ["ours", "reference"] * 4
    assert len(result.ours) == len(result.reference) == 3


def allocate(mebibytes, kept):
    """A call that touches some memory and returns a part of it."""

    def call():
        block = torch.ones(mebibytes, 1 << 18)
        return (block[:kept].clone(),)

    return call


def test_memory_is_the_peak_beyond_what_is_kept():
    """40 MiB are allocated while 8 more are returned: about 40 beyond the result."""
    extra = memory.peak_extra_bytes(partial(allocate, 40, 8), partial(allocate, 1, 1), threads=1)
    if extra is None:
        pytest.skip("memory is measured on Linux only")
    assert 38 <= extra / (1 << 20) <= 46


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "case", "size", "threads", "bar"),
    [
        ("reassemble", "forward", Size(256, 64, 64), 2, 15.0),
        ("reassemble", "forward + backward", Size(256, 64, 64), 2, 10.0),
        ("fusion", "forward", Size(256, 64, 64), 2, 8.0),
        ("fusion", "forward + backward", Size(256, 64, 64), 2, 6.5),
        ("demodulation", "forward", Size(19, 64, 128), 1, 20.0),
        ("panoptic-quality", "one image", Size(8, 64, 64), 1, 5.0),
    ],
)
def test_speed_and_memory_at_full_size(suite, case, size, threads, bar):
    """What is promised; run it on a quiet machine."""
    pytest.importorskip("scipy")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        row = measuring.measure(suite, case, size, runs=9, threads=threads)
    finally:
        torch.set_num_threads(before)
    assert row["speedup"] >= bar
    if row["ours_extra_bytes"] is not None and suite in ("reassemble", "fusion"):
        assert row["ours_extra_bytes"] <= 0.1 * row["reference_extra_bytes"]
    if (suite, case) == ("reassemble", "forward") and row["ours_extra_bytes"] is not None:
        output = 4 * size.channels * 4 * size.height * size.width
        assert row["ours_extra_bytes"] <= 0.1 * output


def test_unknown_suite(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["reasemble"])
    assert "'reasemble' is none of reassemble, fusion" in capsys.readouterr().err


def test_outside_a_checkout(monkeypatch, tmp_path, capsys):
    installed = tmp_path / "lib" / "site" / "freqfusion" / "__init__.py"
    monkeypatch.setattr(oracle.freqfusion, "__file__", str(installed))
    assert benchmark.main([*TINY, "--output", str(tmp_path / "rows.json")]) == 2
    assert "Clone the repository" in capsys.readouterr().err
