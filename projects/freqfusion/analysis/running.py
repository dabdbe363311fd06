"""Mean and spread over a data set, with memory for one image."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class RunningMean:
    """Mean and standard deviation of each element of equally shaped values (Welford's method).

    Kept in float64 on the CPU. An element that is nan counts as missing and is left out.
    """

    def __init__(self) -> None:
        self._count = self._mean = self._squares = torch.zeros(())

    def update(self, values: Tensor | float) -> None:
        """Take one more value of any shape, the same each time.

        Raises:
            ValueError: if the shape is another than before.
        """
        new = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
        if not self._count.any() and self._count.shape != new.shape:
            self._count = self._mean = self._squares = torch.zeros_like(new)
        if new.shape != self._count.shape:
            raise ValueError(
                f"values of one shape can be averaged; got {tuple(new.shape)} after "
                f"{tuple(self._count.shape)}"
            )
        present = ~new.isnan()
        count = self._count + present
        change = torch.where(present, new - self._mean, 0)
        mean = self._mean + change / count.clamp(min=1)
        self._squares = self._squares + change * torch.where(present, new - mean, 0)
        self._count, self._mean = count, mean

    @property
    def count(self) -> Tensor:
        """How often each element was there."""
        return self._count

    @property
    def mean(self) -> Tensor:
        """Of each element; nan where it never was there."""
        return torch.where(self._count > 0, self._mean, math.nan)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each element (n - 1); nan below two values."""
        spread = (self._squares / (self._count - 1).clamp(min=1)).sqrt()
        return torch.where(self._count > 1, spread, math.nan)
