"""Several processes leave the same steps out."""

import json

import pytest
from health_workers import train_where_one_is_wrong

from freqfusion.engine.health import read_dump
from freqfusion.engine.launch import start_processes


def test_processes_skip_together(tmp_path, capfd):
    """Weight 1, less 0.1 times the mean of all four images: (1 + 2 + 2 + 2) / 4, then 3.5."""
    folder = str(tmp_path)
    assert start_processes(train_where_one_is_wrong, folder, count=2, device="cpu") == 0
    for rank in (0, 1):
        record = json.loads((tmp_path / f"{rank}.json").read_text())
        assert record["weights"] == pytest.approx([0.825, 0.825, 0.475])
        assert (record["skipped"], record["in_a_row"]) == (1, 0)
        assert record["waits"] == 7 * 60
    dump = read_dump(str(tmp_path / "non_finite" / "iter_1.pth"))
    assert dump.rank == 1
    assert "the loss loss is nan" in dump.sentence
    assert dump.sentence.endswith("images: rank1_1.png")
    assert "iteration 1, rank 1: numbers are not finite" in capfd.readouterr().err
