"""Curves of a run that goes on have no iteration twice."""

from detectron2.engine.hooks import PeriodicWriter

from freqfusion.engine.curves import cut_curves, has_scores
from freqfusion.engine.writers import build_writers


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


def test_tensorboard_begins_where_the_run_goes_on(tmp_path):
    """Through the wrapper that keeps a failing writer from ending the run."""
    writers = build_writers(str(tmp_path), 9)
    cut_curves(str(tmp_path), 4, [PeriodicWriter(writers)])
    assert writers[-1].writer._writer_args["purge_step"] == 4
