"""Means over seeds and differences of pairs, with intervals of Student's t distribution.

What varies between seeds is the training: initial weights, order and augmentation of the images.
The scenes stay the same, so the intervals say nothing about other scenes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean of ``n`` values, their sample standard deviation, and half the interval's width.

    The last two are None for a single value, which says nothing about its spread.
    """

    n: int
    mean: float
    deviation: float | None
    half: float | None

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half is None else self.mean + self.half

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.half is not None and abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95 % interval; None without values."""
    n = len(values)
    if not n:
        return None
    mean = statistics.fmean(values)
    if n == 1:
        return Estimate(1, mean, None, None)
    deviation = statistics.stdev(values)
    return Estimate(n, mean, deviation, t_quantile(n - 1) * deviation / math.sqrt(n))


def paired(ours: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """The difference of two methods, ours minus reference, over the seeds that both have."""
    return estimate([ours[seed] - reference[seed] for seed in sorted(ours) if seed in reference])


def are_apart(one: Estimate | None, other: Estimate | None) -> bool | None:
    """Whether two intervals do not touch; None where one is not known."""
    if one is None or other is None or one.half is None or other.half is None:
        return None
    return abs(one.mean - other.mean) > one.half + other.half


def t_quantile(freedom: int) -> float:
    """How many standard errors the two-sided 95 % interval reaches, by degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
