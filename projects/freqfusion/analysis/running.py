"""Mean and spread of many values in one pass, with memory for one image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    def mean(self) -> FloatArray:
        """Return the means (size,); nan for a series without values."""
        return np.where(self.count > 0, self._mean, np.nan)

    def std(self) -> FloatArray:
        """Return the unbiased standard deviations (size,); nan for fewer than two values."""
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


class RunningMean:
    """Mean and standard deviation of each element of equally shaped values.

    Kept in float64 on the CPU. An element that is nan counts as missing and is left out.
    """

    def __init__(self) -> None:
        self._shape = torch.Size()
        self._moments = Moments(1)

    def update(self, values: Tensor | float) -> None:
        """Take one more value of any shape, the same each time.

        Raises:
            ValueError: if the shape is another than before.
        """
        new = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
        if not self._moments.count.any() and self._shape != new.shape:
            self._shape, self._moments = new.shape, Moments(new.numel())
        if new.shape != self._shape:
            raise ValueError(
                f"values of one shape can be averaged; got {tuple(new.shape)} after "
                f"{tuple(self._shape)}"
            )
        flat = new.flatten()
        present = (~flat.isnan()).nonzero().flatten()
        self._moments.add(flat[present].numpy(), present.numpy())

    @property
    def count(self) -> Tensor:
        """Return how often each element was there."""
        return torch.from_numpy(self._moments.count).view(self._shape)

    @property
    def mean(self) -> Tensor:
        """Return the mean of each element; nan where it never was there."""
        return torch.from_numpy(self._moments.mean()).view(self._shape)

    @property
    def deviation(self) -> Tensor:
        """Return the standard deviation of each element (n - 1); nan below two values."""
        return torch.from_numpy(self._moments.std()).view(self._shape)
