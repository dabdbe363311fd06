"""Thin structures as strokes: wheels, poles, wires, fences, trees (see ``shapes``)."""

from __future__ import annotations

import math

import numpy as np

from freqfusion.data.synthetic.arrays import PointArray
from freqfusion.data.synthetic.shapes import Stroke, ellipse, points, rectangle


def wheel(
    centre: tuple[float, float],
    radius: float,
    spokes: int,
    turn: float,
    pen: int,
    *,
    thin_tyre: bool = False,
) -> list[Stroke]:
    """A tyre, spokes and a hub; one sees through between the spokes.

    The tyre has a sixth of the radius, or the width of a spoke with ``thin_tyre``.
    """
    tyre = max(1.5, 0.16 * radius)
    if thin_tyre:
        middle = ellipse(centre, (radius - 0.5 * pen, radius - 0.5 * pen))
        strokes = [Stroke(np.concatenate([middle, middle[:1]]), width=pen)]
    else:
        strokes = [
            Stroke(ellipse(centre, (radius, radius))),
            Stroke(ellipse(centre, (radius - tyre, radius - tyre)), erase=True),
        ]
    for spoke in range(spokes):
        angle = turn + 2 * math.pi * spoke / spokes
        reach = radius - 0.5 * tyre
        tip = (centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle))
        strokes.append(Stroke(points(centre, tip), width=pen))
    hub = max(1.0, 0.14 * radius)
    strokes.append(Stroke(ellipse(centre, (hub, hub))))
    return strokes


def mast(foot: tuple[float, float], height: float, lean: float, pen: int) -> list[Stroke]:
    """A single upright line whose top is ``lean`` pixels to the side of its foot."""
    return [Stroke(points(foot, (foot[0] + lean, foot[1] - height)), width=pen)]


def lamp_post(foot: tuple[float, float], height: float, side: int, pen: int) -> list[Stroke]:
    """A mast with an arm to one ``side`` (-1 or 1) and a small lamp at its end."""
    top = foot[1] - height
    reach = foot[0] + side * 0.22 * height
    lamp = max(1.5, 0.035 * height)
    return [
        Stroke(points(foot, (foot[0], top)), width=pen),
        Stroke(points((foot[0], top), (reach, top - 0.03 * height)), width=max(1, pen - 1)),
        Stroke(ellipse((reach, top + 0.3 * lamp), (1.6 * lamp, lamp))),
    ]


def cross_arm_pole(
    foot: tuple[float, float], height: float, arm: float, pen: int
) -> tuple[list[Stroke], list[tuple[float, float]]]:
    """A utility pole with two cross arms; also the places where wires are fixed."""
    strokes = mast(foot, height, 0.0, pen)
    fixings = []
    for level in (1.0, 0.88):
        y = foot[1] - level * height + 1
        strokes.append(
            Stroke(points((foot[0] - arm, y), (foot[0] + arm, y)), width=max(1, pen - 1))
        )
        fixings += [(foot[0] - arm, y), (foot[0] + arm, y)]
    return strokes, fixings


def pylon(foot: tuple[float, float], height: float, base: float, pen: int) -> list[Stroke]:
    """A tapering lattice mast: two legs, rungs and crossing braces."""
    strokes = []
    levels = max(3, int(height / max(6.0, 1.3 * base)))

    def leg(side: int, level: float) -> tuple[float, float]:
        return (foot[0] + side * base * (1 - 0.85 * level), foot[1] - height * level)

    for side in (-1, 1):
        strokes.append(Stroke(points(leg(side, 0), leg(side, 1)), width=pen))
    for rung in range(levels):
        low, high = rung / levels, (rung + 1) / levels
        strokes.append(Stroke(points(leg(-1, low), leg(1, high)), width=max(1, pen - 1)))
        strokes.append(Stroke(points(leg(1, low), leg(-1, high)), width=max(1, pen - 1)))
        strokes.append(Stroke(points(leg(-1, high), leg(1, high)), width=max(1, pen - 1)))
    return strokes


def catenary(
    start: tuple[float, float], end: tuple[float, float], sag: float, pen: int
) -> list[Stroke]:
    """A hanging wire, drawn as a parabola that is ``sag`` pixels below its chord in the middle."""
    count = int(np.clip(abs(end[0] - start[0]) / 6, 6, 120))
    along = np.linspace(0, 1, count)
    x = start[0] + (end[0] - start[0]) * along
    y = start[1] + (end[1] - start[1]) * along + 4 * sag * along * (1 - along)
    return [Stroke(np.stack([x, y], axis=1), width=pen)]


def fence(line: PointArray, height: float, spacing: float, pen: int, pointed: bool) -> list[Stroke]:
    """Pickets ``spacing`` pixels apart along a base line (n x 2, left to right), and two rails."""
    strokes = []
    for level in (0.3, 0.75):
        strokes.append(Stroke(line - (0, level * height), width=max(1, pen - 1)))
    for x in np.arange(line[0, 0], line[-1, 0], spacing):
        y = float(np.interp(x, line[:, 0], line[:, 1]))
        if pointed and pen > 1:
            right, tip = x + pen - 1, y - height
            outline = points((x, y), (x, tip + pen), (x + (pen - 1) / 2, tip), (right, tip + pen))
            strokes.append(Stroke(np.concatenate([outline, points((right, y))])))
        else:
            strokes.append(Stroke(rectangle(x, y - height, x + pen - 1, y)))
    return strokes


def bare_tree(
    rng: np.random.Generator, foot: tuple[float, float], height: float, pen: int
) -> list[Stroke]:
    """A leafless tree: a trunk that forks four times into ever thinner branches."""
    strokes = []
    growing = [(foot, -math.pi / 2, 0.34 * height, pen + 1)]
    for _ in range(5):
        grown, growing = growing, []
        for start, angle, length, width in grown:
            end = (start[0] + length * math.cos(angle), start[1] + length * math.sin(angle))
            strokes.append(Stroke(points(start, end), width=max(1, width)))
            for side in (-1, 1):
                bend = side * float(rng.uniform(0.2, 0.65))
                part = float(rng.uniform(0.6, 0.85))
                growing.append((end, angle + bend, length * part, width - 1))
    return strokes


def conifer(
    rng: np.random.Generator, foot: tuple[float, float], height: float, spread: float
) -> list[Stroke]:
    """A fir: a stem under tiers whose lower edges are jagged."""
    stem = max(0.5, 0.06 * spread)
    strokes = [Stroke(rectangle(foot[0] - stem, foot[1] - 0.3 * height, foot[0] + stem, foot[1]))]
    tiers = int(rng.integers(3, 6))
    for tier in range(tiers):
        low = foot[1] - height * (0.12 + 0.72 * tier / tiers)
        reach = spread * (1 - 0.8 * tier / tiers)
        teeth = int(np.clip(reach, 3, 40))
        x = np.linspace(foot[0] + reach, foot[0] - reach, 2 * teeth + 1)
        droop = 0.12 * height * np.abs(x - foot[0]) / max(spread, 1)
        jag = (np.arange(2 * teeth + 1) % 2) * rng.uniform(0.03, 0.09) * height
        skirt = np.stack([x, low + droop - jag], axis=1)
        tip = points((foot[0], low - 1.35 * height * 0.88 / tiers))
        strokes.append(Stroke(np.concatenate([tip, skirt])))
    return strokes
