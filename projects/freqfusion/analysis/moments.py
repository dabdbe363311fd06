"""Mean and spread of many series at once, in one pass over the values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Moments:
    """Count, mean and unbiased standard deviation of ``size`` series, in float64.

    Batches are joined by the formula of Chan, Golub and LeVeque ("Algorithms for computing the
    sample variance", 1983), so no value is kept, and no digits are lost where the mean is large
    against the spread.
    """

    def __init__(self, size: int) -> None:
        self.count: IntArray = np.zeros(size, dtype=np.int64)
        self._mean: FloatArray = np.zeros(size)
        self._squares: FloatArray = np.zeros(size)  # of the deviations from the mean

    def add(self, values: FloatArray, series: IntArray) -> None:
        """Take values (n,) in, each to the series (n,) that it belongs to."""
        size = len(self.count)
        count = np.bincount(series, minlength=size).astype(np.int64)
        mean = np.bincount(series, values, size) / np.maximum(count, 1)
        deviations = values - mean[series]
        squares = np.bincount(series, deviations**2, size).astype(np.float64)
        self._join(count, mean, squares)

    def merge(self, other: Moments) -> None:
        """Take the values of another object in."""
        self._join(other.count, other._mean, other._squares)

    def mean(self) -> FloatArray:
        """By series (size,); nan for one without values."""
        return np.where(self.count > 0, self._mean, np.nan)

    def std(self) -> FloatArray:
        """By series (size,), unbiased variance; nan for one with fewer than two values."""
        spread = np.sqrt(self._squares / np.maximum(self.count - 1, 1))
        result: FloatArray = np.where(self.count > 1, spread, np.nan)
        return result

    def _join(self, count: IntArray, mean: FloatArray, squares: FloatArray) -> None:
        total = self.count + count
        share = count / np.maximum(total, 1)
        step = mean - self._mean
        self._squares = self._squares + squares + step**2 * self.count * share
        self._mean = self._mean + step * share
        self.count = total
