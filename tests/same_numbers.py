"""What several processes compute is what one computes."""

import pytest
import torch


def check_same(one, several):
    """Compare two records of ``worker_runs.record_run``."""
    check_same_steps(one, several)
    assert several["results"].keys() == one["results"].keys()
    for task, scores in one["results"].items():
        assert several["results"][task] == pytest.approx(scores, abs=1e-6, nan_ok=True)
    assert one["results"]["sem_seg"]["pACC"] > 0


def check_same_steps(one, several, what=("before", "gradients", "after_a_step")):
    """Compare what two records have of training alone; ``what``: of which tensors."""
    assert len(one["losses"]) == 2
    assert several["losses"][0] == pytest.approx(one["losses"][0], rel=1e-4)
    assert several["losses"] == pytest.approx(one["losses"], rel=1e-2)
    for key in what:
        torch.testing.assert_close(several[key], one[key], rtol=1e-4, atol=1e-4)
    assert max(gradient.abs().max() for gradient in one["gradients"].values()) > 0.1
