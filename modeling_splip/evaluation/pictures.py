"""Pictures of queries with their first results, drawn by PIL alone."""

import importlib.util
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..common.files import written_whole

HIT, MISS = "#1a7f37", "#cf222e"
INK, MUTED, LINE, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#f6f8fa"
PHOTO_KINDS = ("png", "jpg", "webp")  # endings of pictures that show images
MARGIN, GAP, SPLIT = 20, 10, 34  # around the picture; between results; between a query and its results
SMOOTH = 4  # frames and marks are drawn this much larger, then reduced

PathLike = str | os.PathLike[str]


def retrieval_grid(
    queries: Sequence[Image.Image],
    results: Sequence[Sequence[Image.Image]],
    hits: Sequence[Sequence[bool]] | None,
    path: PathLike,
    titles: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
    *,
    width: int = 1000,
) -> Path:
    """Save a picture of queries with their first results: hits framed green with a tick, misses red with a cross.

    Args:
        queries: one sketch per row; transparent parts become white paper.
        results: for every query its photos, best first; rows may differ in length.
        hits: for every result whether it is relevant; None where nobody knows, then frames are grey.
        path: a .png, .jpg or .webp file, written whole or not at all; its folder is made if needed.
        titles: one line above every query, for example its class.
        captions: one line above every result.
        width: of the picture in pixels; the images share it.

    Raises:
        ValueError: if there is no query, lists have different lengths, results are too many for the width, or the
            file's ending is not one of these.
    """
    check_picture(path, PHOTO_KINDS)
    _check_rows(queries, results, hits, titles, captions)
    grid = _Grid.of(width, max(max(map(len, results)), 1), header=bool(titles or captions))
    canvas = Image.new("RGB", (width, grid.top(len(queries)) - grid.row_gap + MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (query, photos) in enumerate(zip(queries, results, strict=True)):
        top = grid.top(row)
        if titles:
            room = grid.cell + SPLIT - GAP if captions else width - 2 * MARGIN
            write_line(draw, (MARGIN, top), titles[row], room, text_font(grid.font_size, bold=True), INK)
        paste_tile(canvas, framed_tile(query, grid.cell, "white", LINE, 1), (MARGIN, top + grid.header))
        rule, below = grid.left(0) - SPLIT // 2, top + grid.header
        draw.line((rule, below + 6, rule, below + grid.cell - 6), fill=LINE, width=1)
        known = hits[row] if hits is not None else [None] * len(photos)
        for column, (photo, hit) in enumerate(zip(photos, known, strict=True)):
            if captions:
                corner, text = (grid.left(column), top), captions[row][column]
                write_line(draw, corner, text, grid.cell, text_font(grid.font_size, bold=False), MUTED)
            paste_tile(canvas, result_tile(photo, grid.cell, hit), (grid.left(column), below))
    return save_picture(canvas, path)


def save_picture(canvas: Image.Image, path: PathLike) -> Path:
    """Write an image to a file of one of `PHOTO_KINDS`, whole or not at all, and return the file."""
    with written_whole(Path(path)) as partial:
        canvas.save(partial, picture_kind(path).replace("jpg", "jpeg"))
    return Path(path)


def check_picture(path: PathLike, kinds: Sequence[str]) -> None:
    """Raise ValueError if the name of a picture's file does not end in one of `kinds`."""
    if picture_kind(path) not in kinds:
        expected = ", ".join(f".{kind}" for kind in kinds)
        raise ValueError(f"Cannot write the picture '{path}': give it a name that ends in {expected}.")


def picture_kind(path: PathLike) -> str:
    """Return the ending of a file's name, in lower case and without its dot."""
    return Path(path).suffix[1:].lower()


class _Grid(NamedTuple):
    """Where the images of a picture stand, in pixels.

    Attributes:
        cell: side of an image.
        font_size: of titles and captions.
        header: height of the line above an image, 0 without such lines.
        row_gap: between two rows.
    """

    cell: int
    font_size: int
    header: int
    row_gap: int

    @classmethod
    def of(cls, width: int, columns: int, *, header: bool) -> "_Grid":
        """Share the width between a query and `columns` results."""
        cell = (width - 2 * MARGIN - SPLIT - (columns - 1) * GAP) // (columns + 1)
        if cell < 24:
            raise ValueError(
                f"width {width} leaves {cell} pixels for each of {columns} results: show fewer, or widen it."
            )
        size = int(np.clip(cell * 0.115, 11, 17))
        return cls(cell, size, size + 12 if header else 0, 14 if header else GAP)

    def top(self, row: int) -> int:
        return MARGIN + row * (self.cell + self.header + self.row_gap)

    def left(self, column: int) -> int:
        return MARGIN + self.cell + SPLIT + column * (self.cell + GAP)


def _check_rows(
    queries: Sequence[Image.Image],
    results: Sequence[Sequence[Image.Image]],
    hits: Sequence[Sequence[bool]] | None,
    titles: Sequence[str] | None,
    captions: Sequence[Sequence[str]] | None,
) -> None:
    if not queries:
        raise ValueError("queries is empty: give at least one sketch with its results.")
    for name, rows in (("results", results), ("hits", hits), ("titles", titles), ("captions", captions)):
        if rows is not None and len(rows) != len(queries):
            raise ValueError(f"{name} has {len(rows)} rows for {len(queries)} queries: give one per query.")
    for name, rows in (("hits", hits), ("captions", captions)):
        for row, entries in enumerate(rows or ()):
            if len(entries) != len(results[row]):
                raise ValueError(
                    f"{name} has {len(entries)} entries in row {row} for {len(results[row])} results: give one each."
                )


def result_tile(photo: Image.Image, cell: int, hit: bool | None) -> Image.Image:
    """Return a result in its frame, with its mark where it is known whether it is relevant, (cell, cell) RGBA."""
    frame = LINE if hit is None else HIT if hit else MISS
    tile = framed_tile(photo, cell, PAPER, frame, max(3, cell // 36))
    if hit is not None:
        _mark(tile, bool(hit))
    return tile


def framed_tile(image: Image.Image, cell: int, background: str, frame: str, stroke: int) -> Image.Image:
    """Fit an image into a framed square with round corners, (cell, cell) RGBA."""
    picture = Image.new("RGBA", image.size, background)
    picture.alpha_composite(image.convert("RGBA"))
    inside = cell - 2 * stroke
    picture = ImageOps.pad(picture, (inside, inside), Image.Resampling.LANCZOS, color=background)
    tile = Image.new("RGBA", (cell, cell), background)
    tile.paste(picture, (stroke, stroke))
    large, radius = cell * SMOOTH, max(4, cell // 16) * SMOOTH
    border = Image.new("RGBA", (large, large))
    box = (0, 0, large - 1, large - 1)
    ImageDraw.Draw(border).rounded_rectangle(box, radius, outline=frame, width=stroke * SMOOTH)
    tile.alpha_composite(border.resize((cell, cell), Image.Resampling.BOX))
    mask = Image.new("L", (large, large))
    ImageDraw.Draw(mask).rounded_rectangle(box, radius, fill=255)
    tile.putalpha(mask.resize((cell, cell), Image.Resampling.BOX))
    return tile


def _mark(tile: Image.Image, hit: bool) -> None:
    """Draw a tick or a cross into the lower right corner, so that no reader depends on colour."""
    side = max(14, tile.width // 6)
    large = side * SMOOTH
    badge = Image.new("RGBA", (large, large))
    draw = ImageDraw.Draw(badge)
    draw.ellipse((0, 0, large - 1, large - 1), fill=HIT if hit else MISS, outline="white", width=SMOOTH + large // 24)
    strokes = (
        [[(0.29, 0.52), (0.44, 0.67), (0.72, 0.35)]]
        if hit
        else [[(0.33, 0.33), (0.67, 0.67)], [(0.67, 0.33), (0.33, 0.67)]]
    )
    for stroke in strokes:
        points = [(x * large, y * large) for x, y in stroke]
        draw.line(points, fill="white", width=large // 10, joint="curve")
        for x, y in points:  # round ends
            draw.ellipse((x - large / 20, y - large / 20, x + large / 20, y + large / 20), fill="white")
    offset = tile.width - side - max(4, tile.width // 24)
    tile.alpha_composite(badge.resize((side, side), Image.Resampling.BOX), (offset, offset))


def paste_tile(canvas: Image.Image, tile: Image.Image, corner: tuple[int, int]) -> None:
    """Lay a tile with round corners on a picture."""
    canvas.paste(tile, corner, tile)


def text_font(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    """Return the font of all pictures."""
    return ImageFont.truetype(str(_fonts() / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)


@cache
def _fonts() -> Path:
    """Return the folder of fonts that matplotlib brings, so that pictures are alike on every machine.

    matplotlib is not imported for this, since that takes long.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The fonts of pictures come with matplotlib: install it.", name="matplotlib")
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


def write_line(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, font: ImageFont.FreeTypeFont, fill: str
) -> None:
    """Write one line; a line that is wider than its column is cut and ends in an ellipsis."""
    line = " ".join(text.split())
    kept = len(line)
    while kept > 1 and draw.textlength(line, font=font) > width:
        kept -= 1
        line = line[:kept].rstrip(" …") + "…"
    draw.text((corner[0] + 1, corner[1] + 2), line, font=font, fill=fill)
