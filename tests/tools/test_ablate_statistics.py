"""Means and paired differences, with numbers worked out by hand."""

import math

import pytest

from freqfusion.tools._ablate.statistics import are_apart, estimate, paired, t_quantile

pytest.importorskip("scipy")


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042)]
)
def test_quantiles_are_those_of_the_tables(freedom, expected):
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-4)


def test_mean_and_interval():
    """1, 2, 3: mean 2, deviation 1, half 4.303 / sqrt(3)."""
    one = estimate([1.0, 2.0, 3.0])
    assert (one.n, one.mean, one.deviation) == (3, 2.0, 1.0)
    assert one.half == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)
    assert (one.low, one.high) == (one.mean - one.half, one.mean + one.half)
    assert not one.is_clear


def test_a_single_value_has_no_interval():
    one = estimate([3.0])
    assert (one.n, one.mean, one.deviation, one.half, one.low, one.high) == (1, 3, *[None] * 4)
    assert not one.is_clear
    assert estimate([]) is None


def test_pairs_are_those_of_the_same_seed():
    """Differences 1, 2, 3 of the shared seeds 0, 1, 4, whatever the seeds' own level."""
    ours = {0: 11.0, 1: 52.0, 4: 33.0, 7: 99.0}
    reference = {4: 30.0, 1: 50.0, 0: 10.0, 5: 1.0}
    assert paired(ours, reference) == estimate([1.0, 2.0, 3.0])
    assert paired(ours, {5: 1.0}) is None


@pytest.mark.parametrize(("shift", "clear"), [(2.4, False), (2.6, True), (-2.6, True)])
def test_clear_intervals_leave_zero_out(shift, clear):
    """Half the width of -1, 0, 1 is 2.484."""
    assert estimate([shift - 1, shift, shift + 1]).is_clear == clear


def test_intervals_that_do_not_touch():
    one = estimate([-1.0, 0.0, 1.0])
    assert are_apart(one, estimate([4.0, 5.0, 6.0])) is True
    assert are_apart(estimate([4.0, 5.0, 6.0]), one) is True
    assert are_apart(one, estimate([3.9, 4.9, 5.9])) is False
    assert are_apart(one, estimate([9.0])) is None
    assert are_apart(None, one) is None
