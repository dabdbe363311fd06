"""Tables of measurements, and that docs/performance.md shows those of its results."""

import json
from pathlib import Path

import pytest

from freqfusion.tools._benchmark import tables
from freqfusion.tools._benchmark.record import read_record

ROOT = Path(__file__).parents[2]
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
    lines = tables.render(record).splitlines()
    assert lines[0] == "Measured on a machine; medians of 3 runs in turn."
    assert lines[-1] == (
        "| reassemble, forward: 8 channels | 2 | unfold form | 2.0 | 20.0 | **10.00** (7.50 to"
        " 15.00) | 1.0 / – | 2.0, 5 | 1.00 of 9.0 |"
    )
    assert len(lines) == 5


def test_cost_per_pixel_by_hand():
    rows = [size_row(512, 2.0), size_row(256, 3.0), size_row(2048, 2.5)]
    record = {"machine": "a machine", "runs": 3, "rows": [], "sizes": rows}
    lines = tables.render(record).splitlines()
    assert lines[2].endswith("| 256 | 512 | 2048 | 2048 to 512 |")
    assert lines[4] == "| reassemble, forward | 2 | 3.0 | 2.0 | 2.5 | 1.25 |"
    record["sizes"].append({**size_row(512, 1.0), "memory_kept": True})
    lines = tables.render(record).splitlines()
    assert lines[5] == "| reassemble, forward, memory kept | 2 |  | 1.0 |  |  |"


def test_only_what_lies_between_the_marks_is_replaced(tmp_path):
    document = tmp_path / "notes.md"
    document.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.write_into(document, "new")
    assert document.read_text() == f"before\n{tables.BEGIN}\nnew\n{tables.END}\nafter\n"
    document.write_text("nothing marked")
    with pytest.raises(ValueError, match="lacks the lines"):
        tables.write_into(document, "new")


def test_the_document_shows_the_results():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    shown = text.partition(tables.BEGIN)[2].partition(tables.END)[0].strip()
    assert shown == tables.render(read_record(ROOT / "results" / "benchmark.json"))


def test_results_are_plain_json():
    record = json.loads((ROOT / "results" / "benchmark.json").read_text(encoding="utf-8"))
    assert set(record) == {"schema", "machine", "runs", "rows", "sizes"}
