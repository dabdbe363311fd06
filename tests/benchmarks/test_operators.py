"""The benchmark on tiny maps: rows, agreement of the forms, floors, memory, clear errors."""

import json
import statistics
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import operator_suites as suites
from benchmarks import operators, timing
from benchmarks.documents import CHECKOUT, read_json, read_marked, write_json
from benchmarks.operator_suites import WARM_UP, Size, Suite

TINY = ["--channels", "8", "--height", "4", "--width", "5", "--runs", "2", "--threads", "1"]


def test_prints_a_table_and_writes_the_rows(tmp_path, capsys, monkeypatch):
    """Without processes for the memory, which has a test of its own."""
    monkeypatch.setattr(operators, "peak_extra_bytes", lambda *_: 3 << 20)
    file = tmp_path / "rows.json"
    assert operators.main([*TINY, "--output", str(file), "fusion"]) == 0
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
        assert row["ours_extra_bytes"] == 3 << 20
        rate = row["floor_bytes"] / statistics.median(row["ours_ms"]) / 1e6
        assert row["achieved_gb_per_s"] == pytest.approx(rate, rel=1e-2)
    printed = capsys.readouterr().out
    assert "8 channels, 4x5 to 8x10" in printed
    assert f"{record['rows'][0]['speedup']:.2f}" in printed


def test_append_keeps_what_is_not_measured_again(tmp_path):
    file = tmp_path / "rows.json"
    run = [*TINY, "--output", str(file), "--append"]
    assert operators.main([*run, "reassemble", "--sizes", "64"]) == 0
    assert operators.main([*run, "panoptic-quality"]) == 0
    first = json.loads(file.read_text())
    assert operators.main([*run, "reassemble", "--sizes", "64", "128"]) == 0
    second = json.loads(file.read_text())
    assert [row["suite"] for row in second["rows"]] == ["panoptic-quality"]
    assert second["rows"] == first["rows"]
    assert [row["image"] for row in second["sizes"]] == [64, 64, 128, 128]
    assert not any("machine" in row for row in [*second["rows"], *second["sizes"]])
    # 64 pixels of image are 16 of the fine map and 8 of the coarse one.
    for row in second["sizes"]:
        expected = 1e6 * statistics.median(row["ours_ms"]) / row["image"] ** 2
        assert row["ns_per_pixel"] == pytest.approx(expected, rel=1e-2)


def test_append_on_another_machine_says_so(tmp_path):
    """The machine of the file stays that of the rows that were there."""
    file = tmp_path / "rows.json"
    write_json(file, {"schema": 1, "machine": "mine", "runs": 3, "rows": [ROW], "sizes": []})
    assert operators.main([*TINY, "--output", str(file), "--append", "panoptic-quality"]) == 0
    record = read_json(file)
    assert record["machine"] == "mine"
    old, new = record["rows"]
    assert old == ROW
    assert new["machine"].endswith(f"torch {torch.__version__}")
    lines = operators.render(record).splitlines()
    assert lines[0] == "Measured on mine; medians of 2 to 3 runs in turn."
    assert lines[-1].startswith(
        f"| panoptic-quality, one image: 32x40 pixels (on {new['machine']}) | 1 |"
    )


def test_floors_by_hand():
    """2 channels, 3x1 coarse and 6x2 fine pixels: p = 3, q = 12.

    Reassembly reads 2 * 3 features and 25 * 12 kernels and writes 2 * 12 values; each value takes
    25 multiply-adds.
    """
    size = Size(2, 3, 1)
    assert suites.reassembly_floor(size, "forward") == (4 * (6 + 300 + 24), 2 * 25 * 24)
    both = suites.reassembly_floor(size, "forward + backward")
    assert both == (4 * (330 + 24 + 2 * 306), 3 * 2 * 25 * 24)
    assert suites.demodulation_floor(size, "forward") == (4 * 12 * 6, 12 * (40 + 16))
    assert suites.panoptic_quality_floor(size, "one image") == (8 * 24 * 8, 2 * 24 * 8)


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
    floor = suites.fusion_floor(size, "forward").operations
    assert 0.5 * floor < 2 * counted[0] < floor


SAME = [
    (suite, case)
    for suite, chosen in suites.SUITES.items()
    for case in chosen.cases
    if chosen.is_same
]


@pytest.mark.parametrize(("suite", "case"), SAME)
def test_forms_agree(suite, case):
    build = suites.SUITES[suite].cases[case]
    operators.check_same(build(WARM_UP, ours=True), build(WARM_UP, ours=False))


def test_forms_that_disagree_are_not_timed(monkeypatch):
    cases = {"wrong": lambda size, *, ours: lambda: (torch.full((2,), 0.1 * ours),)}
    monkeypatch.setitem(suites.SUITES, "wrong", Suite(cases, "zeros"))
    with pytest.raises(AssertionError, match="not close"):
        operators.measure("wrong", "wrong", WARM_UP, runs=1, threads=1)


@pytest.mark.parametrize("suite", ["panoptic-quality", "data"])
def test_suites_of_images(suite):
    row = operators.measure(suite, "one image", WARM_UP, runs=1, threads=1)
    assert row["size"] == "32x32 pixels"
    assert row["ours_extra_bytes"] is None


def test_a_model_with_and_without():
    pytest.importorskip("detectron2")
    case = "semantic FPN with FreqFusion, training step"
    row = operators.measure("models", case, Size(8, 8, 8), runs=1, threads=1)
    assert row["floor_bytes"] is None
    assert row["reference"] == "the same model without"


@pytest.mark.parametrize(
    ("values", "expected"), [([3.0, 1.0, 5.0, 2.0, 4.0], (2.0, 4.0)), ([7.0], (7.0, 7.0))]
)
def test_quartiles(values, expected):
    assert timing.quartiles(values) == expected


def test_forms_run_in_turn_and_the_order_changes(monkeypatch):
    """Runs of 3 and 2 seconds by a clock of their own, then of 5 and 4, in the other order."""
    now, ran, lengths = [0.0], [], {"ours": [9, 3, 5], "reference": [9, 2, 4]}

    def run(name):
        ran.append(name)
        now[0] += lengths[name].pop(0)

    forms = (lambda: run("ours"), lambda: run("reference"))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert timing.run_in_turn(*forms, 2) == ([3, 5], [2, 4])
    assert ran == ["ours", "reference", "ours", "reference", "reference", "ours"]


def allocate(mebibytes, kept):
    """A call that touches some memory and returns a part of it."""

    def call():
        block = torch.ones(mebibytes, 1 << 18)
        return (block[:kept].clone(),)

    return call


def test_memory_is_the_peak_beyond_what_is_kept():
    """40 MiB are allocated while 8 more are returned: about 40 beyond the result."""
    extra = timing.peak_extra_bytes(partial(allocate, 40, 8), partial(allocate, 1, 1), threads=1)
    if extra is None:
        pytest.skip("memory is measured on Linux only")
    assert 38 <= extra / (1 << 20) <= 46


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "case", "size", "threads", "bar"),
    [
        ("reassemble", "forward", Size(256, 64, 64), 2, 15.0),
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
        row = operators.measure(suite, case, size, runs=9, threads=threads)
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
        operators.main(["reasemble"])
    assert "'reasemble' is none of reassemble, fusion" in capsys.readouterr().err


ROW = {
    "suite": "reassemble",
    "case": "forward",
    "size": "8 channels",
    "threads": 2,
    "reference": "unfold form",
    "ours_ms": [1.0, 2.0, 3.0],
    "reference_ms": [20.0, 10.0, 30.0],
    "speedup": 10.0,
    "speedup_quartiles": [7.5, 15.0],
    "ours_extra_bytes": 1 << 20,
    "reference_extra_bytes": None,
    "floor_bytes": 2_000_000,
    "floor_operations": 5_000_000,
    "copy_gb_per_s": 9.0,
    "achieved_gb_per_s": 1.0,
}


def size_row(image, nanoseconds):
    return {**ROW, "image": image, "memory_kept": False, "ns_per_pixel": nanoseconds}


def test_a_row_by_hand():
    record = {"machine": "a machine", "runs": 3, "rows": [ROW], "sizes": []}
    lines = operators.render(record).splitlines()
    assert lines[0] == "Measured on a machine; medians of 3 runs in turn."
    assert lines[-1] == (
        "| reassemble, forward: 8 channels | 2 | unfold form | 2.0 | 20.0 | **10.00** (7.50 to"
        " 15.00) | 1.0 / – | 2.0, 5 | 1.00 of 9.0 |"
    )
    assert len(lines) == 5


def test_cost_per_pixel_by_hand():
    rows = [size_row(512, 2.0), size_row(256, 3.0), size_row(2048, 2.5)]
    record = {"machine": "a machine", "runs": 3, "rows": [], "sizes": rows}
    lines = operators.render(record).splitlines()
    assert lines[2].endswith("| 256 | 512 | 2048 | 2048 to 512 |")
    assert lines[4] == "| reassemble, forward | 2 | 3.0 | 2.0 | 2.5 | 1.25 |"
    record["sizes"].append({**size_row(512, 1.0), "memory_kept": True})
    lines = operators.render(record).splitlines()
    assert lines[5] == "| reassemble, forward, memory kept | 2 |  | 1.0 |  |  |"


def test_the_document_shows_the_results():
    shown = read_marked(CHECKOUT / "docs" / "performance.md", operators.COMMAND)
    assert shown == operators.render(read_json(CHECKOUT / "results" / "benchmark.json"))


def test_only_what_lies_between_the_marks_is_replaced(tmp_path, monkeypatch, capsys):
    document, results = tmp_path / "notes.md", tmp_path / "rows.json"
    monkeypatch.setattr(operators, "DOCUMENT", document)
    monkeypatch.setattr(operators, "RESULTS", results)
    write_json(results, {"schema": 1, "machine": "mine", "runs": 3, "rows": [], "sizes": []})
    begin, end = f"<!-- measured: begin ({operators.COMMAND}) -->", "<!-- measured: end -->"
    document.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    assert operators.main(["--write-docs"]) == 0
    shown = "Measured on mine; medians of 3 runs in turn."
    assert document.read_text() == f"before\n{begin}\n{shown}\n{end}\nafter\n"
    document.write_text("nothing marked")
    assert operators.main(["--write-docs"]) == 2
    assert "lacks the lines" in capsys.readouterr().err
    results.write_text('{"schema": 0}')
    assert operators.main(["--write-docs"]) == 2
    assert "is no result of schema 1; delete it and run again" in capsys.readouterr().err
