"""The scene while it is being painted: picture, owner of each pixel, segments so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from freqfusion.data.synthetic.categories import Category, category_named
from freqfusion.data.synthetic.noise import ByteArray, FloatArray
from freqfusion.data.synthetic.settings import Difficulty
from freqfusion.data.synthetic.shapes import Patch, Stroke, rasterize
from freqfusion.data.synthetic.textures import Texture, at_frequency


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


VOID = 0
_BACKDROP = ("sky", "grass")


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
        """(height, width)."""
        return self.height, self.width

    def pen(self, rng: np.random.Generator, thickest: int = 3) -> int:
        """A line width of 1 to ``thickest`` pixels, mostly thin, larger in large scenes.

        With a ``line_thickness``, that; the generator is asked all the same.
        """
        width = min(int(rng.integers(1, thickest + 2)), thickest)
        return self.line_thickness or max(1, round(width * math.sqrt(self.unit)))

    def nearness(self, y: float) -> float:
        """Size factor of a thing at row ``y``: 0.35 at the horizon, 1 at the lower edge."""
        depth = (y - self.horizon) / max(self.height - self.horizon, 1)
        return 0.35 + 0.65 * min(max(depth, 0.0), 1.0)


class Canvas:
    """Paints shapes from back to front; a later shape hides what is under it.

    With ``difficulty``, shapes are drawn and colored by its dials. ``tape`` is told after each
    shape, so that dials change nothing but what they say. ``spare`` draws what is there only
    because of a dial.
    """

    def __init__(
        self,
        view: View,
        difficulty: Difficulty | None = None,
        *,
        tape: Tape | None = None,
        spare: np.random.Generator | None = None,
    ) -> None:
        self.view = view
        self.difficulty = difficulty or Difficulty()
        self.spare = spare
        self.image: FloatArray = np.full((3, *view.size), 127, dtype=np.float32)
        self.owner = np.zeros(view.size, dtype=np.int32)
        self.segments: list[tuple[Category, bool]] = []
        self._stuff: dict[str, int] = {}
        self._tape = tape
        self._hiding = False

    @property
    def thing_unit(self) -> float:
        """``view.unit`` for the things: times the dial ``object_size``."""
        return self.view.unit * self.difficulty.object_size

    @contextmanager
    def untaped(self) -> Iterator[None]:
        """Paint what a scene without dials does not have."""
        tape, self._tape = self._tape, None
        try:
            yield
        finally:
            self._tape = tape

    @contextmanager
    def hiding(self) -> Iterator[None]:
        """Leave out what is painted meanwhile, as if it were out of sight."""
        self._hiding = True
        try:
            yield
        finally:
            self._hiding = False

    def paint(
        self,
        strokes: Sequence[Stroke],
        texture: Texture,
        name: str,
        *,
        crowd: bool = False,
        anchored: bool = False,
    ) -> int:
        """Paint a new thing, or more of the stuff ``name``; its id, or 0 when out of sight.

        ``anchored``: the texture is the shading of this very shape, not a pattern.
        """
        patch, segment = self._patch(strokes), VOID
        if patch is not None:
            segment = self._segment(category_named(name), crowd)
            self._fill(patch, texture, segment, anchored, name in _BACKDROP)
        self._mark()
        return segment

    def add_to(
        self, segment: int, strokes: Sequence[Stroke], texture: Texture, *, anchored: bool = False
    ) -> None:
        """Paint another part of a segment (0: void), for instance leaves over a trunk."""
        patch = self._patch(strokes)
        if patch is not None:
            self._fill(patch, texture, segment, anchored, backdrop=False)
        self._mark()

    def tint(
        self, strokes: Sequence[Stroke], color: FloatArray | np.float32, name: str | None = None
    ) -> None:
        """Multiply the picture under a shape by a color (1 leaves it); labels stay.

        With a ``name``, only where that stuff is seen.
        """
        patch = self._patch(strokes)
        if patch is None:
            return
        mask = patch.mask
        if name is not None:
            mask = mask & (self.owner[patch.window.slices] == self._stuff.get(name, -1))
        contrast = self.difficulty.contrast
        if contrast != 1:
            color = np.maximum(1 + np.float32(contrast) * (color - np.float32(1)), 0)
        view = self.image[:, *patch.window.slices]
        np.multiply(view, color, out=view, where=mask)

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

    def _patch(self, strokes: Sequence[Stroke]) -> Patch | None:
        if self._hiding:
            return None
        thickness = self.difficulty.line_thickness
        if thickness is not None:
            strokes = [replace(s, width=thickness, exact=True) if s.width else s for s in strokes]
        return rasterize(strokes, self.view.size)

    def _fill(
        self, patch: Patch, texture: Texture, segment: int, anchored: bool, backdrop: bool
    ) -> None:
        where = patch.window.slices
        behind, contrast = self.image[:, *where], self.difficulty.contrast
        if self.difficulty.texture_frequency != 1 and not anchored:
            texture = at_frequency(texture, self.difficulty.texture_frequency)
        picture = texture(patch.window)
        if contrast != 1 and not backdrop:
            picture = np.clip(behind + np.float32(contrast) * (picture - behind), 0, 255)
        np.copyto(behind, picture, where=patch.mask)
        self.owner[where][patch.mask] = segment

    def _mark(self) -> None:
        if self._tape is not None:
            self._tape.mark()


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
