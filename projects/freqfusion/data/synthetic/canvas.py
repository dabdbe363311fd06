"""The scene while it is being painted: picture, owner of each pixel, segments so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from freqfusion.data.synthetic.arrays import ByteArray, FloatArray
from freqfusion.data.synthetic.categories import Category, category_named
from freqfusion.data.synthetic.shapes import Patch, Stroke, rasterise
from freqfusion.data.synthetic.stuff_textures import Texture

VOID = 0


@dataclass(frozen=True, slots=True)
class View:
    """Size of a scene, the row where ground meets sky, and ``unit``, its shorter side over 256."""

    height: int
    width: int
    horizon: float
    unit: float

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def pen(self, rng: np.random.Generator, thickest: int = 3) -> int:
        """A line width of 1 to ``thickest`` pixels, mostly thin, larger in large scenes."""
        width = min(int(rng.integers(1, thickest + 2)), thickest)
        return max(1, round(width * math.sqrt(self.unit)))

    def nearness(self, y: float) -> float:
        """Size factor of a thing at row ``y``: 0.35 at the horizon, 1 at the lower edge."""
        depth = (y - self.horizon) / max(self.height - self.horizon, 1)
        return 0.35 + 0.65 * min(max(depth, 0.0), 1.0)


class Canvas:
    """Paints shapes from back to front; a later shape hides what is under it."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.image: FloatArray = np.full((3, *view.size), 127, dtype=np.float32)
        self.owner = np.zeros(view.size, dtype=np.int32)
        self.segments: list[tuple[Category, bool]] = []
        self._stuff: dict[str, int] = {}

    def paint(
        self, strokes: Sequence[Stroke], texture: Texture, name: str, *, crowd: bool = False
    ) -> int:
        """Paint a new thing, or more of the stuff ``name``; its id, or 0 when out of sight."""
        patch = rasterise(strokes, self.view.size)
        return VOID if patch is None else self.paint_patch(patch, texture, name, crowd=crowd)

    def paint_patch(self, patch: Patch, texture: Texture, name: str, *, crowd: bool = False) -> int:
        """Like ``paint``, for a mask that exists already."""
        segment = self._segment(category_named(name), crowd)
        self._fill(patch, texture, segment)
        return segment

    def add_to(self, segment: int, strokes: Sequence[Stroke], texture: Texture) -> None:
        """Paint another part of a segment (0: void), for instance leaves over a trunk."""
        patch = rasterise(strokes, self.view.size)
        if patch is not None:
            self._fill(patch, texture, segment)

    def tint(
        self, strokes: Sequence[Stroke], colour: FloatArray | np.float32, name: str | None = None
    ) -> None:
        """Multiply the picture under a shape by a colour (1 leaves it); labels stay.

        With a ``name``, only where that stuff is seen.
        """
        patch = rasterise(strokes, self.view.size)
        if patch is None:
            return
        mask = patch.mask
        if name is not None:
            mask = mask & (self.owner[patch.window.slices] == self._stuff.get(name, -1))
        view = self.image[:, *patch.window.slices]
        np.multiply(view, colour, out=view, where=mask)

    def pixels(self) -> ByteArray:
        """The picture as bytes, height x width x 3."""
        flat = np.clip(self.image, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(flat.transpose(1, 2, 0))

    def _segment(self, category: Category, crowd: bool) -> int:
        if not category.is_thing and category.name in self._stuff:
            return self._stuff[category.name]
        self.segments.append((category, crowd))
        if not category.is_thing:
            self._stuff[category.name] = len(self.segments)
        return len(self.segments)

    def _fill(self, patch: Patch, texture: Texture, segment: int) -> None:
        where = patch.window.slices
        np.copyto(self.image[:, *where], texture(patch.window), where=patch.mask)
        self.owner[where][patch.mask] = segment
