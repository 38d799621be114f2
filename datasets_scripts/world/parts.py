"""Vocabulary of the drawn world: parts, the attributes in which instances differ, and the table of categories."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ROLES = ("body", "second", "dark", "light")

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Part:
    """One piece of an object, in the unit frame: x to the right, y down, the object within about [-1, 1].

    Attributes:
        points: vertices; a closed outline (filled in photos) or an open line.
        role: which of the instance's colours fills it, one of `ROLES`.
        width: 0 for a closed outline; the thickness of an open line in unit-frame lengths.
        detail: True where a sketcher may leave the part out.
    """

    points: Points
    role: str = "body"
    width: float = 0.0
    detail: bool = False


@dataclass(frozen=True)
class Scale:
    """A proportion drawn uniformly from [low, high]; captions name its lowest and its highest third."""

    low: float
    high: float
    low_phrase: str
    high_phrase: str


@dataclass(frozen=True)
class Option:
    """A discrete choice between part options or counts, all equally likely; captions give the chosen phrase.

    An empty phrase is not mentioned.
    """

    phrases: tuple[str, ...]


Attribute = Scale | Option
Draw = Callable[..., list[Part]]


@dataclass(frozen=True)
class Category:
    """A class of objects: its attributes by name, and the function that turns their values into parts.

    Attributes:
        symmetric: True where mirroring shows nothing, so that captions must not name a side.
    """

    name: str
    attributes: dict[str, Attribute]
    draw: Draw
    symmetric: bool


CATEGORIES: dict[str, Category] = {}


def category(name: str, symmetric: bool = False, **attributes: Attribute) -> Callable[[Draw], Draw]:
    """Register the decorated function, which takes one value per attribute and returns parts back to front."""

    def register(draw: Draw) -> Draw:
        CATEGORIES[name] = Category(name, attributes, draw, symmetric)
        return draw

    return register


def option(*phrases: str) -> Option:
    """Return an `Option`; the value that the drawing function receives is the phrase's index."""
    return Option(phrases)


def polygon(points: Sequence[tuple[float, float]], role: str = "body", detail: bool = False) -> Part:
    """Return a closed outline through `points`; long straight edges get middle points, so that they can bend."""
    dense: Points = []
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        pieces = min(4, 1 + int(math.hypot(x1 - x0, y1 - y0) / 0.35))
        dense += [(x0 + (x1 - x0) * k / pieces, y0 + (y1 - y0) * k / pieces) for k in range(pieces)]
    return Part(dense, role, detail=detail)


def box(x0: float, y0: float, x1: float, y1: float, role: str = "body", detail: bool = False) -> Part:
    """Return an upright rectangle."""
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], role, detail)


def _angles(count: int) -> list[tuple[float, float]]:
    return [(math.cos(2 * math.pi * k / count), math.sin(2 * math.pi * k / count)) for k in range(count)]


_CIRCLES = {count: _angles(count) for count in (10, 18)}


def ellipse(
    x: float, y: float, rx: float, ry: float, role: str = "body", turn: float = 0.0, detail: bool = False
) -> Part:
    """Return an ellipse about (x, y), turned clockwise by `turn` degrees."""
    circle = _CIRCLES[18 if max(rx, ry) > 0.2 else 10]
    if turn == 0.0:
        return Part([(x + rx * c, y + ry * s) for c, s in circle], role, detail=detail)
    ct, st = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return Part(
        [(x + rx * c * ct - ry * s * st, y + rx * c * st + ry * s * ct) for c, s in circle], role, detail=detail
    )


def sector(
    x: float, y: float, rx: float, ry: float, start: float, stop: float, role: str = "body", detail: bool = False
) -> Part:
    """Return the closed piece of an ellipse between two angles in degrees (0 right, 90 down), cut by its chord."""
    return Part(_arc_points(x, y, rx, ry, start, stop), role, detail=detail)


def arc(
    x: float, y: float, rx: float, ry: float, start: float, stop: float, width: float = 0.07, role: str = "dark"
) -> Part:
    """Return an open bow between two angles in degrees (0 right, 90 down)."""
    return Part(_arc_points(x, y, rx, ry, start, stop), role, width)


def line(points: Sequence[tuple[float, float]], width: float = 0.06, role: str = "dark", detail: bool = False) -> Part:
    """Return an open line."""
    return Part(list(points), role, width, detail)


def smooth(points: Sequence[tuple[float, float]], role: str = "body", detail: bool = False) -> Part:
    """Return a closed curve through `points` (Catmull-Rom, three pieces an edge)."""
    p1 = np.asarray(points)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    pieces = [
        0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        for t in (0.0, 1 / 3, 2 / 3)
    ]
    curve = np.stack(pieces, 1).reshape(-1, 2)  # (3 n, 2)
    return Part([(x, y) for x, y in curve.tolist()], role, detail=detail)


def _arc_points(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    count = max(4, int(abs(stop - start) / 22))
    angles = [math.radians(start + (stop - start) * k / count) for k in range(count + 1)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]
