"""The strokes of an SVG drawing: its shapes as polylines, under their transforms.

Only what stands in the file itself is read, element by element. A file that declares entities, holds pictures or uses
parts by reference is refused, so that nothing is loaded from elsewhere and nothing multiplies.
"""

import re
from collections.abc import Mapping
from typing import Any
from xml.parsers import expat

import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.svgLib.path import parse_path

STEPS = 16  # line segments for a curve
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
TRANSFORM = re.compile(r"(\w+)\s*\(([^)]*)\)")
INHERITED = ("stroke", "fill", "visibility")
REFUSED = ("image", "use", "foreignObject", "script")
UNDRAWN = ("defs", "clipPath", "mask", "marker", "pattern", "symbol")
INVISIBLE = ("none", "transparent", "white", "#fff", "#ffffff")  # on paper


def svg_strokes(content: bytes) -> list[np.ndarray]:
    """Return the strokes of an SVG file, each (points, 2); curves as short lines.

    Shapes with a stroke are taken. Where no shape has one, the outlines of all are.

    Raises:
        ValueError: if it is no SVG file, or holds what is not drawn here.
    """
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise ValueError(f"It is no well-formed SVG ({error}).") from error
    return reader.stroked or reader.outlines


def _refuse_entity(name: str, *_: Any) -> None:
    raise ValueError(f"It declares an entity ('{name}'), which is not read.")


class _Reader:
    """Collects shapes while the file is read.

    Attributes:
        stroked: the outlines of shapes that have a stroke.
        outlines: those of the other shapes.
    """

    def __init__(self) -> None:
        self.stroked: list[np.ndarray] = []
        self.outlines: list[np.ndarray] = []
        self._open: list[tuple[np.ndarray, dict[str, str]]] = [(np.eye(3), {})]  # of every open element
        self._undrawn = 0  # open elements whose content is not drawn

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Take an element that begins."""
        name = tag.rpartition(":")[2]
        style = attributes | _style(attributes.get("style", ""))
        references = [value for key, value in attributes.items() if key.rpartition(":")[2] == "href"]
        if name in REFUSED or (name != "a" and any(not value.startswith("#") for value in references)):
            raise ValueError(f"It holds <{name}>, which is not drawn.")
        matrix, inherited = self._open[-1]
        matrix = matrix @ transform(attributes.get("transform", ""))
        inherited = inherited | {key: style[key].strip().lower() for key in INHERITED if key in style}
        self._open.append((matrix, inherited))
        self._undrawn += name in UNDRAWN or style.get("display", "").strip() == "none" or self._undrawn > 0
        if not self._undrawn and inherited.get("visibility") not in ("hidden", "collapse"):
            self._take([line for line in shape(name, attributes) if len(line)], matrix, inherited)

    def end(self, tag: str) -> None:
        """Leave an element."""
        self._open.pop()
        self._undrawn -= self._undrawn > 0

    def _take(self, lines: list[np.ndarray], matrix: np.ndarray, style: Mapping[str, str]) -> None:
        moved = [line @ matrix[:2, :2].T + matrix[:2, 2] for line in lines]  # (points, 2)
        if style.get("stroke", "none") not in INVISIBLE:
            self.stroked += moved
        elif "stroke" not in style and style.get("fill") not in INVISIBLE:
            self.outlines += moved


def shape(name: str, attributes: Mapping[str, str]) -> list[np.ndarray]:
    """Return the outline of an SVG element as polylines, each (points, 2); [] for an element that is no shape."""
    if name == "path":
        pen = _LinePen()
        parse_path(attributes.get("d", ""), pen)
        return [np.array(line, float) for line in pen.lines]
    if name in ("polyline", "polygon"):
        numbers = _numbers(attributes.get("points", ""))
        line = np.array(numbers[: len(numbers) // 2 * 2], float).reshape(-1, 2)
        return [np.concatenate([line, line[:1]]) if name == "polygon" else line]
    value = {key: _length(text) for key, text in attributes.items() if key in _LENGTHS}
    if name == "line":
        return [np.array([[value.get(x, 0.0), value.get(y, 0.0)] for x, y in (("x1", "y1"), ("x2", "y2"))])]
    if name == "rect":
        x, y, width, height = (value.get(key, 0.0) for key in ("x", "y", "width", "height"))
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
        return [np.array(corners)] if width > 0 and height > 0 else []
    if name in ("circle", "ellipse"):
        radii = np.array([value.get("r", value.get("rx", 0.0)), value.get("r", value.get("ry", 0.0))])
        angles = np.linspace(0, 2 * np.pi, 4 * STEPS + 1)
        middle = np.array([value.get("cx", 0.0), value.get("cy", 0.0)])
        return [middle + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)] if (radii > 0).all() else []
    return []


_LENGTHS = ("x", "y", "x1", "y1", "x2", "y2", "width", "height", "r", "rx", "ry", "cx", "cy")


def transform(text: str) -> np.ndarray:
    """Return the (3, 3) matrix of a `transform` attribute. Raises ValueError for a transform that is unknown."""
    matrix = np.eye(3)
    for name, arguments in TRANSFORM.findall(text):
        values = _numbers(arguments)
        if name == "matrix" and len(values) == 6:
            step = np.array([values[0::2], values[1::2], [0, 0, 1]])
        elif name == "translate" and values:
            step = np.array([[1, 0, values[0]], [0, 1, values[1] if len(values) > 1 else 0], [0, 0, 1]])
        elif name == "scale" and values:
            step = np.diag([values[0], values[-1], 1])
        elif name == "rotate" and values:
            cos, sin = np.cos(np.deg2rad(values[0])), np.sin(np.deg2rad(values[0]))
            middle = np.array(values[1:3] if len(values) == 3 else (0, 0))
            turn = np.array([[cos, -sin], [sin, cos]])
            step = np.eye(3)
            step[:2, :2], step[:2, 2] = turn, middle - turn @ middle
        elif name in ("skewX", "skewY") and values:
            step = np.eye(3)
            step[(0, 1) if name == "skewX" else (1, 0)] = np.tan(np.deg2rad(values[0]))
        else:
            raise ValueError(f"It has an unknown transform: {name}({arguments}).")
        matrix = matrix @ step
    return matrix


class _LinePen(BasePen):
    """Takes a path's commands and keeps them as polylines."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[list[tuple[float, float]]] = []

    def _moveTo(self, point):  # noqa: N802
        self.lines.append([point])

    def _lineTo(self, point):  # noqa: N802
        self.lines[-1].append(point)

    def _curveToOne(self, one, two, end):  # noqa: N802
        points = np.array([self.lines[-1][-1], one, two, end])  # (4, 2)
        t = np.linspace(0, 1, STEPS + 1)[1:, None]
        weights = np.concatenate([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], axis=1)  # (STEPS, 4)
        self.lines[-1] += [tuple(point) for point in weights @ points]

    def _qCurveToOne(self, middle, end):  # noqa: N802
        start, middle = np.array(self.lines[-1][-1]), np.array(middle)
        self._curveToOne(start + (middle - start) * 2 / 3, end + (middle - end) * 2 / 3, end)

    def _closePath(self):  # noqa: N802
        line = self.lines[-1]
        if line[-1] != line[0]:
            line.append(line[0])


def _style(text: str) -> dict[str, str]:
    pairs = (part.partition(":") for part in text.split(";"))
    return {key.strip(): value for key, _, value in pairs if key.strip()}


def _numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def _length(text: str) -> float:
    """Return a length in the file's own units; a share of the page has none, and counts as nothing."""
    numbers = _numbers(text)
    return numbers[0] if numbers and not text.strip().endswith("%") else 0.0
