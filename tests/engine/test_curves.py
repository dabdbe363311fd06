"""Curves of a run that goes on have no iteration twice."""

from freqfusion.engine.curves import cut_curves, has_scores


def test_curves_are_cut_where_the_run_goes_on(tmp_path):
    path = tmp_path / "metrics.json"
    whole = '{"iteration": 1, "loss": 1}\n{"iteration": 3, "loss": 1, "segm/AP": 2}\n'
    path.write_text(whole + '{"iteration": 4, "loss": 1}\n{"iter')
    assert has_scores(str(tmp_path), 3)
    assert not has_scores(str(tmp_path), 1)
    cut_curves(str(tmp_path), 4, [])
    assert path.read_text() == whole
    path.write_text(whole + '{"iter')
    cut_curves(str(tmp_path), 9, [])
    assert path.read_text() == whole
