"""The scene while it is being painted: image, owner of each pixel, segments so far."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np

from freqfusion.data.synthetic.categories import Category, category_named
from freqfusion.data.synthetic.shapes import ByteArray, FloatArray, Patch, Stroke, rasterize
from freqfusion.data.synthetic.textures import Texture, at_frequency

SMALLEST_SIDE = 8


def check_index(name: str, value: SupportsIndex, least: int = 0) -> int:
    """Return ``value`` as an int; ValueError unless it is a whole number from ``least`` on."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number from {least} on, not {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be {least} or more, not {number}")
    return number


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` as (height, width); ValueError unless both are whole numbers from 8 on."""
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"size must be (height, width) in whole pixels, not {size!r}") from None
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"size is {height}x{width}, but a scene needs at least {SMALLEST_SIDE} pixels on each"
            " side; choose a larger one"
        )
    return height, width


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return ``value``; ValueError with the choices unless it is one of them."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")
    return value


MOST = 16
"""The largest factor: beyond it a scene of usual size is all one thing or all noise."""

_POSITIVE = ("object_size", "texture_frequency")
_FROM_ZERO = ("contrast", "noise", "occlusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """Dials of a scene; without arguments, the scene as it always was, bit by bit.

    Scenes of one (seed, index) share their layout whatever the dials: the horizon, the things,
    where they stand, their colors, the light. ValueError for values that are not possible.

    line_thickness: pixels of every thin line (pickets and rails of fences, wires, poles, masts,
        lattices, wheels, bare branches), 1 to 16; None draws it at random by kind and distance.
    object_size: factor on the things that stand on the ground or fly, above 0.
    texture_frequency: factor on the patterns' spatial frequency, above 0; 2 makes bricks half as
        large. The shading of balls, stars and wheels is their shape and stays.
    contrast: factor on the difference of things, fences, walls, roads and water to what is behind
        them, pixel by pixel, 0 or more; at 0 they cannot be seen. Sky and grass stay.
    noise: factor on the camera's grain, 0 or more.
    occlusion: factor on the number of things, 0 or more; more of them hide each other.
    """

    line_thickness: int | None = None
    object_size: float = 1.0
    texture_frequency: float = 1.0
    contrast: float = 1.0
    noise: float = 1.0
    occlusion: float = 1.0

    def __post_init__(self) -> None:
        if self.line_thickness is not None:
            thickness = check_index("line_thickness", self.line_thickness, least=1)
            if thickness > MOST:
                raise ValueError(f"line_thickness must be 1 to {MOST} pixels, not {thickness}")
            object.__setattr__(self, "line_thickness", thickness)
        for name in (*_POSITIVE, *_FROM_ZERO):
            object.__setattr__(self, name, _factor(name, getattr(self, name)))


def check_difficulty(difficulty: Difficulty) -> Difficulty:
    """Return ``difficulty``; ValueError unless it is a ``Difficulty``."""
    if not isinstance(difficulty, Difficulty):
        raise ValueError(
            f"difficulty must be a Difficulty, for instance Difficulty(noise=2), not {difficulty!r}"
        )
    return difficulty


def _factor(name: str, value: object) -> float:
    positive = name in _POSITIVE
    allowed = f"a number {'above 0' if positive else 'of 0 or more'} and at most {MOST}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be {allowed}, not {value!r}")
    number = float(value)
    if not math.isfinite(number) or not 0 <= number <= MOST or (positive and number == 0):
        raise ValueError(f"{name} must be {allowed}, not {number:g}")
    return number


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

    With ``difficulty``, shapes are drawn and colored by its dials. ``tape`` is notified after each
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
        """Return ``view.unit`` for the things: times the dial ``object_size``."""
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
    def hiding(self, hidden: bool) -> Iterator[None]:
        """Leave out what is painted meanwhile, as if it were out of sight, where ``hidden``."""
        self._hiding = hidden
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
        """Multiply the image under a shape by a color (1 leaves it); labels stay.

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
        drawn = texture(patch.window)
        if contrast != 1 and not backdrop:
            drawn = np.clip(behind + np.float32(contrast) * (drawn - behind), 0, 255)
        np.copyto(behind, drawn, where=patch.mask)
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


def paint_in_depth_order(
    canvas: Canvas,
    rng: np.random.Generator,
    things: Iterable[Placed],
    count: int,
    stray: Callable[[np.random.Generator], Placed],
) -> None:
    """Paint ``count`` things, given from far to near, and as many more as the dial asks for.

    ``stray`` places one of the additional things with the canvas's spare generator; with
    ``occlusion`` below 1, things chosen at random are left out instead.
    """
    spare, wanted = canvas.spare, round(count * canvas.difficulty.occlusion)
    strays: list[Placed] = []
    left_out: list[int] = []
    if spare is not None and wanted > count:
        strays = sorted((stray(spare) for _ in range(wanted - count)), key=lambda s: s.foot[1])
    elif spare is not None:
        left_out = spare.choice(count, size=count - wanted, replace=False).tolist()

    def paint_strays(nearest: float) -> None:
        while spare is not None and strays and strays[0].foot[1] < nearest:
            placed = strays.pop(0)
            with canvas.untaped():
                placed.paint(canvas, spare, placed.foot, placed.scale)

    for number, placed in enumerate(things):
        paint_strays(placed.foot[1])
        with canvas.hiding(number in left_out):
            placed.paint(canvas, rng, placed.foot, placed.scale)
    paint_strays(math.inf)
