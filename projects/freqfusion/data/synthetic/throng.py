"""Things from far to near, more or fewer of them by the dial ``occlusion``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from freqfusion.data.synthetic.canvas import Canvas

Foot = tuple[float, float]
ThingPainter = Callable[[Canvas, np.random.Generator, Foot, float], None]


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing to be painted: how, where it stands, and its scale."""

    paint: ThingPainter
    foot: Foot
    scale: float


class Throng:
    """Paints ``count`` things that are added from far to near, and by the dial others among them.

    ``stray`` places one of those others with the canvas's spare generator; with a dial below 1,
    things chosen at random are left out instead.
    """

    def __init__(
        self, canvas: Canvas, count: int, stray: Callable[[np.random.Generator], Placed]
    ) -> None:
        self._canvas = canvas
        self._strays: list[Placed] = []
        self._left_out: frozenset[int] = frozenset()
        self._added = 0
        spare, wanted = canvas.spare, round(count * canvas.difficulty.occlusion)
        if spare is None:
            return
        if wanted > count:
            strays = [stray(spare) for _ in range(wanted - count)]
            self._strays = sorted(strays, key=lambda placed: placed.foot[1])
        else:
            left_out = spare.choice(count, size=count - wanted, replace=False)
            self._left_out = frozenset(left_out.tolist())

    def add(self, rng: np.random.Generator, placed: Placed) -> None:
        """Paint the strays that are farther away, then this thing."""
        self._paint_strays(placed.foot[1])
        if self._added in self._left_out:
            with self._canvas.hiding():
                placed.paint(self._canvas, rng, placed.foot, placed.scale)
        else:
            placed.paint(self._canvas, rng, placed.foot, placed.scale)
        self._added += 1

    def finish(self) -> None:
        """Paint the strays that are nearer than all others."""
        self._paint_strays(math.inf)

    def _paint_strays(self, nearest: float) -> None:
        spare = self._canvas.spare
        while spare is not None and self._strays and self._strays[0].foot[1] < nearest:
            placed = self._strays.pop(0)
            with self._canvas.untaped():
                placed.paint(self._canvas, spare, placed.foot, placed.scale)
