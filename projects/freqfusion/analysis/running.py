"""Mean and spread over a data set, with memory for one image."""

from __future__ import annotations

import torch
from torch import Tensor

from freqfusion.analysis.moments import Moments


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
        """How often each element was there."""
        return torch.from_numpy(self._moments.count).view(self._shape)

    @property
    def mean(self) -> Tensor:
        """Of each element; nan where it never was there."""
        return torch.from_numpy(self._moments.mean()).view(self._shape)

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each element (n - 1); nan below two values."""
        return torch.from_numpy(self._moments.std()).view(self._shape)
