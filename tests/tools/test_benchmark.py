"""The benchmark on tiny maps: rows, agreement of the forms, memory, clear errors."""

import json
import statistics
from functools import partial

import pytest
import torch

from freqfusion.tools import benchmark
from freqfusion.tools._benchmark import memory, oracle, suites, timing

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
        assert row["speedup"] == pytest.approx(expected)
    printed = capsys.readouterr().out
    assert "8 channels, 4x5 to 8x10" in printed
    assert f"{record['rows'][0]['speedup']:.1f}" in printed


@pytest.mark.parametrize("suite", suites.SUITES)
def test_forms_that_disagree_are_not_timed(suite, monkeypatch):
    right = suites.SUITES[suite]

    def wrong(size, *, ours, backward):
        call = right(size, ours=ours, backward=backward)
        return (lambda: tuple(t + 0.1 for t in call())) if ours else call

    monkeypatch.setitem(suites.SUITES, suite, wrong)
    with pytest.raises(AssertionError, match="not close"):
        benchmark.measure(suite, suites.WARM_UP, backward=True, runs=1, threads=1)


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
@pytest.mark.parametrize(("suite", "bar"), [("reassemble", 8.0), ("fusion", 6.0)])
@pytest.mark.parametrize("backward", [False, True])
def test_speed_and_memory_at_full_size(suite, bar, backward):
    """What is promised for two threads; run it on a quiet machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        row = benchmark.measure(suite, suites.Size(256, 64, 64), backward, runs=5, threads=2)
    finally:
        torch.set_num_threads(before)
    assert row["speedup"] >= bar
    if row["ours_extra_bytes"] is not None:
        assert row["ours_extra_bytes"] <= 0.1 * row["reference_extra_bytes"]


def test_unknown_suite(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["reasemble"])
    assert "'reasemble' is none of reassemble, fusion" in capsys.readouterr().err


def test_outside_a_checkout(monkeypatch, tmp_path, capsys):
    installed = tmp_path / "lib" / "site" / "freqfusion" / "__init__.py"
    monkeypatch.setattr(oracle.freqfusion, "__file__", str(installed))
    assert benchmark.main([*TINY, "--output", str(tmp_path / "rows.json")]) == 2
    assert "Clone the repository" in capsys.readouterr().err
