"""Streaming mean and deviation against numpy on everything at once."""

import numpy as np
import pytest
import torch

from freqfusion.analysis import RunningMean


def test_equals_numpy_with_missing_values():
    values = np.random.default_rng(0).normal(5, 3, (7, 2, 3))
    values[2, 0, 1] = values[5, 0, 1] = values[:, 1, 2] = np.nan
    values[1:, 1, 0] = np.nan
    running = RunningMean()
    for one in values:
        running.update(torch.tensor(one))
    assert running.count.tolist() == [[7, 5, 7], [1, 7, 0]]
    kept = values[:, 0]
    assert np.allclose(running.mean[0], np.nanmean(kept, axis=0))
    assert np.allclose(running.deviation[0], np.nanstd(kept, axis=0, ddof=1))
    assert running.mean[1, 0] == values[0, 1, 0]
    assert running.deviation[1, 0].isnan()
    assert running.mean[1, 2].isnan()


def test_numbers_and_large_offsets():
    """1e8 + (0, 1, 2): deviation 1, which sums of squares in float32 would lose."""
    running = RunningMean()
    for value in (1e8, 1e8 + 1, 1e8 + 2):
        running.update(value)
    assert running.mean.item() == 1e8 + 1
    assert running.deviation.item() == pytest.approx(1)


def test_missing_values_first_do_not_fix_the_mean():
    running = RunningMean()
    running.update(torch.tensor([float("nan"), 1.0]))
    running.update(torch.tensor([4.0, float("nan")]))
    assert running.mean.tolist() == [4, 1]
    assert running.count.tolist() == [1, 1]


def test_another_shape_is_refused():
    running = RunningMean()
    running.update(torch.tensor([float("nan")] * 3))
    running.update(torch.zeros(3))
    with pytest.raises(ValueError, match=r"one shape can be averaged; got \(2,\) after \(3,\)"):
        running.update(torch.zeros(2))
