"""Keeps a generator in step between a scene without dials and the same scene with them."""

from __future__ import annotations

from typing import Any

import numpy as np


class Tape:
    """States of a generator after each shape: recorded first, then imposed.

    What a texture draws depends on the size of its shape, so a thicker line alone would change
    everything that is painted after it. The scene is painted once without dials, ``rewind`` is
    called, and it is painted again with them: after each shape the generator goes on from where
    it was the first time.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._bits = rng.bit_generator
        self._start: Any = self._bits.state
        self._states: list[Any] = []
        self._next: int | None = None

    def mark(self) -> None:
        """Say that a shape is done."""
        if self._next is None:
            self._states.append(self._bits.state)
            return
        self._bits.state = self._states[self._next]
        self._next += 1

    def rewind(self) -> None:
        """End the recording: the generator is where it was when the tape was made."""
        self._end: Any = self._bits.state
        self._bits.state = self._start
        self._next = 0

    def finish(self) -> None:
        """End the second painting: the generator is where it was after the first."""
        assert self._next == len(self._states), "dials changed the number of shapes"
        self._bits.state = self._end
