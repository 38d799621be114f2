"""Drawings that come as strokes: Quick, Draw! `.ndjson` and SVG files, drawn in one way.

A picture is a square of 256 px: black strokes of 3 px on white, antialiased. The drawing keeps its aspect ratio and
fills the square but for a margin of 12 px. Its colours, widths and fillings do not count.
"""

import functools
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from modeling_splip.common.text import one_line

from .archive import Member
from .pictures import stem
from .svg import svg_strokes

SIZE, MARGIN, WIDTH = 256, 12, 3  # pixels
FINER = 4  # drawn this many times larger, then made smaller: antialiasing
STROKE_FILES = (".ndjson", ".svg")

Strokes = list[np.ndarray]  # each (points, 2): x to the right, y down


class SvgDrawing(NamedTuple):
    """An SVG file, which is drawn when it is read."""

    member: Member

    @property
    def path(self) -> str:
        """Path of the SVG file."""
        return self.member.path

    @property
    def name(self) -> str:
        """Name of the picture."""
        return f"{stem(self.member.name)}.png"

    @property
    def size(self) -> int:
        """Bytes of the SVG file."""
        return self.member.size

    def read(self) -> bytes:
        """Return the drawing as PNG. Raises ValueError where the file has no strokes, or more than strokes."""
        return draw(svg_strokes(self.member.read()))


class NdjsonDrawing(NamedTuple):
    """One line of a Quick, Draw! file, which is drawn when it is read.

    Attributes:
        member: the file.
        key: the drawing's own id, or its line's number.
        start, size: the place of the line in the file, in bytes.
    """

    member: Member
    key: str
    start: int
    size: int

    @property
    def path(self) -> str:
        """Path of the file, and the drawing's id."""
        return f"{self.member.path}: {self.key}"

    @property
    def name(self) -> str:
        """Name of the picture."""
        return f"{self.key}.png"

    def read(self) -> bytes:
        """Return the drawing as PNG."""
        line = _content(self.member)[self.start : self.start + self.size]
        return draw(ndjson_strokes(json.loads(line)["drawing"]))


def list_ndjson(member: Member) -> Iterator[tuple[NdjsonDrawing, dict[str, Any] | ValueError]]:
    """Yield every drawing of a Quick, Draw! file with the line's other fields, or with what is wrong with the line."""
    start = 0
    for number, line in enumerate(_content(member).splitlines(keepends=True), 1):
        if line.strip():
            try:
                fields = json.loads(line)
                ndjson_strokes(fields.pop("drawing"))
                key = str(fields.get("key_id", number))
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
                key, fields = f"line {number}", ValueError(one_line(error) or type(error).__name__)
            yield NdjsonDrawing(member, key, start, len(line)), fields
        start += len(line)


def ndjson_strokes(drawing: Sequence[Sequence[Sequence[float]]]) -> Strokes:
    """Return the strokes of a `drawing` field: for each [x, ...], [y, ...], and in raw files the times [t, ...].

    Raises:
        ValueError: if it is not of that form.
    """
    strokes = []
    for stroke in drawing:
        if len(stroke) < 2 or len(stroke[0]) != len(stroke[1]):
            raise ValueError("A stroke must hold as many x as y.")
        strokes.append(np.array(stroke[:2], float).T)  # (points, 2)
    return [stroke for stroke in strokes if len(stroke)]


def draw(strokes: Strokes) -> bytes:
    """Return strokes as a PNG file.

    Raises:
        ValueError: if there is nothing to draw, or a coordinate is no finite number.
    """
    if not strokes:
        raise ValueError("It has no strokes.")
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = (high - low).max()
    if not math.isfinite(extent):
        raise ValueError("Its strokes have coordinates that are no finite numbers.")
    scale = FINER * (SIZE - 2 * MARGIN) / extent if extent > 0 else 1.0
    image = Image.new("L", (SIZE * FINER, SIZE * FINER), 255)
    pen = ImageDraw.Draw(image)
    radius = FINER * WIDTH / 2
    for stroke in strokes:
        line = [tuple(point) for point in (stroke - (low + high) / 2) * scale + SIZE * FINER / 2]
        pen.line(line, fill=0, width=FINER * WIDTH, joint="curve")
        for x, y in (line[0], line[-1]):  # round ends
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    file = io.BytesIO()
    image.reduce(FINER).save(file, "PNG")
    return file.getvalue()


@functools.lru_cache(maxsize=1)  # drawings are read in the order of the file
def _content(member: Member) -> bytes:
    return member.read()
