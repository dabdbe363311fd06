"""The scene while it is being painted: image, owner of each pixel, segments so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from freqfusion.data.categories import Category
from freqfusion.data.synthetic.categories import CATEGORY_OF_NAME
from freqfusion.data.synthetic.shapes import ByteArray, FloatArray, Patch, Stroke, rasterize
from freqfusion.data.synthetic.textures import Texture


class Tape:
    """States of a generator after each shape: recorded first, then imposed.

    What a texture draws depends on the size of its shape, so a thicker line alone would change
    everything that is painted after it. The scene is painted once with lines as they are drawn,
    ``rewind`` is called, and it is painted again with lines of one thickness: after each shape
    the generator goes on from where it was the first time.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._bits = rng.bit_generator
        self._start: Any = self._bits.state
        self._states: list[Any] = []
        self._next: int | None = None

    def mark(self) -> None:
        """Record or impose the state after a shape."""
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
        assert self._next == len(self._states), "the thickness changed the number of shapes"
        self._bits.state = self._end


@dataclass(frozen=True, slots=True)
class View:
    """Size of a scene, the row where ground meets sky, and ``unit``, its shorter side over 256."""

    height: int
    width: int
    horizon: float
    unit: float
    line_thickness: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return self.height, self.width

    def pen(self, rng: np.random.Generator, thickest: int = 3) -> int:
        """Return a line width of 1 to ``thickest`` pixels, mostly thin, larger in large scenes.

        With a ``line_thickness``, that; the generator draws all the same.
        """
        width = min(int(rng.integers(1, thickest + 2)), thickest)
        return self.line_thickness or max(1, round(width * math.sqrt(self.unit)))

    def nearness(self, y: float) -> float:
        """Return size factor of a thing at row ``y``: 0.35 at the horizon, 1 at the lower edge."""
        depth = (y - self.horizon) / max(self.height - self.horizon, 1)
        return 0.35 + 0.65 * min(max(depth, 0.0), 1.0)


class Canvas:
    """Paints shapes from back to front; a later shape hides what is under it.

    Lines are as thick as ``view`` says. ``tape`` is notified after each shape.
    """

    def __init__(self, view: View, tape: Tape | None = None) -> None:
        self.view = view
        self.image: FloatArray = np.full((3, *view.size), 127, dtype=np.float32)
        self.owner = np.zeros(view.size, dtype=np.int32)
        self.segments: list[tuple[Category, bool]] = []
        self._stuff: dict[str, int] = {}
        self._tape = tape

    def paint(
        self, strokes: Sequence[Stroke], texture: Texture, name: str, *, crowd: bool = False
    ) -> int:
        """Paint a new thing, or more of the stuff ``name``; its id, or 0 when out of sight."""
        patch, segment = self._patch(strokes), 0
        if patch is not None:
            segment = self._segment(CATEGORY_OF_NAME[name], crowd)
            self._fill(patch, texture, segment)
        self._mark()
        return segment

    def add_to(self, segment: int, strokes: Sequence[Stroke], texture: Texture) -> None:
        """Paint another part of a segment (0: void), for instance leaves over a trunk."""
        patch = self._patch(strokes)
        if patch is not None:
            self._fill(patch, texture, segment)
        self._mark()

    def tint(
        self, strokes: Sequence[Stroke], color: FloatArray | np.float32, name: str | None = None
    ) -> None:
        """Multiply the image under a shape by a color (1 leaves it); labels stay.

        With a ``name``, only where that stuff is seen.
        """
        patch = self._patch(strokes)
        if patch is None:
            return
        mask = patch.mask
        if name is not None:
            mask = mask & (self.owner[patch.window.slices] == self._stuff.get(name, -1))
        view = self.image[:, *patch.window.slices]
        np.multiply(view, color, out=view, where=mask)

    def pixels(self) -> ByteArray:
        """Return the image as bytes, height x width x 3."""
        flat = np.clip(self.image, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(flat.transpose(1, 2, 0))

    def _segment(self, category: Category, crowd: bool) -> int:
        if not category.is_thing and category.name in self._stuff:
            return self._stuff[category.name]
        self.segments.append((category, crowd))
        if not category.is_thing:
            self._stuff[category.name] = len(self.segments)
        return len(self.segments)

    def _patch(self, strokes: Sequence[Stroke]) -> Patch | None:
        thickness = self.view.line_thickness
        if thickness is not None:
            strokes = [replace(s, width=thickness, exact=True) if s.width else s for s in strokes]
        return rasterize(strokes, self.view.size)

    def _fill(self, patch: Patch, texture: Texture, segment: int) -> None:
        where = patch.window.slices
        np.copyto(self.image[:, *where], texture(patch.window), where=patch.mask)
        self.owner[where][patch.mask] = segment

    def _mark(self) -> None:
        if self._tape is not None:
            self._tape.mark()
