"""Pictures of a search to look at and to share: a drawing with its photos, and what it has in common with one."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ..evaluation.pictures import (
    GAP,
    INK,
    MARGIN,
    MUTED,
    PHOTO_KINDS,
    SMOOTH,
    SPLIT,
    PathLike,
    check_picture,
    framed_tile,
    paste_tile,
    result_tile,
    save_picture,
    text_font,
    write_line,
)
from .explain import Matches
from .result import Result

WIDTH = 1200
MOST_PAIRS = 8
_TITLE, _CAPTION, _NOTE = 34, 24, 26  # heights of lines
# How many photos high a sketch is, how many photos stand side by side at least, and at most: one query, several.
_LAYOUTS = (2, 3, 6), (1, 6, 10)
_FOOT = "Drawn, and found with splip"
# Told apart by colour-blind readers too (Wong, Nature Methods 2011); each pair also has a number.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f3c8d", "#59636e")


def results_picture(
    queries: Sequence[tuple[str, Image.Image | None]],
    results: Sequence[Sequence[Result]],
    path: PathLike,
    hits: Sequence[Sequence[bool]] | None = None,
) -> None:
    """Save a picture of a query, large, with its photos beside it; several queries stand smaller, one a row.

    Args:
        queries: what was searched for, in words, and its sketch; None where words alone were searched for.
        results: for every query its photos, best first.
        path: a .png, .jpg or .webp file, written whole or not at all; its folder is made if needed.
        hits: for every photo whether it is right, then framed green or red; None where nobody knows.

    Raises:
        ValueError: if there is no query, or the file's ending is not one of these.
    """
    check_picture(path, PHOTO_KINDS)
    if not queries:
        raise ValueError("There is nothing to show: pass at least one query with its photos.")
    layout = _LAYOUTS[len(queries) > 1]
    blocks = [
        _results_block(*query, found, hits[number] if hits is not None else [None] * len(found), *layout)
        for number, (query, found) in enumerate(zip(queries, results, strict=True))
    ]
    save_picture(_stacked(blocks), path)


def matches_picture(matches: Sequence[tuple[str, Matches]], path: PathLike) -> None:
    """Save a picture of sketches and photos, side by side, with the best pairs of parts joined by lines.

    Args:
        matches: a title, and what `explain` returned.
        path: a .png, .jpg or .webp file, written whole or not at all; its folder is made if needed.

    Raises:
        ValueError: if there are no matches, or the file's ending is not one of these.
    """
    check_picture(path, PHOTO_KINDS)
    if not matches:
        raise ValueError("There is nothing to show: pass at least one sketch with its photo.")
    save_picture(_stacked([_matches_block(title, each) for title, each in matches]), path)


def _stacked(blocks: Sequence[Image.Image]) -> Image.Image:
    """Return blocks below each other, with the foot line: (WIDTH, ...) RGB."""
    height = 2 * MARGIN + sum(block.height for block in blocks) + _NOTE
    canvas, top = Image.new("RGB", (WIDTH, height), "white"), MARGIN
    for block in blocks:
        canvas.paste(block, (0, top))
        top += block.height
    font = text_font(13, bold=False)
    width = int(font.getlength(_FOOT)) + 4
    write_line(ImageDraw.Draw(canvas), (WIDTH - MARGIN - width, height - MARGIN - 14), _FOOT, width, font, MUTED)
    return canvas


def _results_block(
    title: str,
    sketch: Image.Image | None,
    found: Sequence[Result],
    hits: Sequence[bool | None],
    tall: int,
    least: int,
    most: int,
) -> Image.Image:
    """Return one query: its sketch, `tall` photos high, and its photos in rows."""
    columns = min(max(-(-len(found) // tall), least), most)
    room = WIDTH - 2 * MARGIN - (columns - 1) * GAP
    if sketch is None:
        cell, side = room // columns, 0
    else:
        cell = (room - SPLIT - (tall - 1) * GAP) // (columns + tall)
        side = tall * cell + (tall - 1) * GAP
    left = MARGIN + (side + SPLIT if side else 0)
    rows = -(-len(found) // columns)
    height = _TITLE + max(rows * (cell + _CAPTION + GAP), side + GAP, _CAPTION + GAP)
    block = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(block)
    write_line(draw, (MARGIN, 0), title, WIDTH - 2 * MARGIN, text_font(20, bold=True), INK)
    if sketch is not None:
        paste_tile(block, framed_tile(sketch, side, "white", MUTED, 2), (MARGIN, _TITLE))
    for number, (result, hit) in enumerate(zip(found, hits, strict=True)):
        row, column = divmod(number, columns)
        corner = left + column * (cell + GAP), _TITLE + row * (cell + _CAPTION + GAP)
        paste_tile(block, result_tile(result.thumbnail, cell, hit), corner)
        caption = f"{result.label} {result.score:.2f}".strip()
        write_line(draw, (corner[0], corner[1] + cell + 2), caption, cell, text_font(14, bold=False), MUTED)
    if not found:
        note = "No photo in the gallery fits the filter."
        write_line(draw, (left, _TITLE), note, WIDTH - left - MARGIN, text_font(14, bold=False), MUTED)
    return block


def _matches_block(title: str, matches: Matches) -> Image.Image:
    """Return a sketch and a photo with numbered dots on their best pairs, and lines between these."""
    side = (WIDTH - 2 * MARGIN - SPLIT) // 2
    corners = (MARGIN, _TITLE), (MARGIN + side + SPLIT, _TITLE)
    block = Image.new("RGB", (WIDTH, _TITLE + side + _NOTE + GAP), "white")
    draw = ImageDraw.Draw(block)
    write_line(draw, (MARGIN, 0), title, WIDTH - 2 * MARGIN, text_font(20, bold=True), INK)
    for view, corner in zip((matches.sketch, matches.photo), corners, strict=True):
        paste_tile(block, framed_tile(view.resize((side, side)), side, "white", MUTED, 1), corner)
    shown = matches.pairs[:MOST_PAIRS]
    _draw_pairs(block, matches, shown, side, corners)
    note = f"Cosine of both {matches.score:.2f}. " + (
        f"The {len(shown)} parts that resemble each other most, of {len(matches.pairs)}."
        if shown
        else "No two parts are each other's nearest."
    )
    below = MARGIN, _TITLE + side + 4
    write_line(draw, below, note, WIDTH - 2 * MARGIN, text_font(14, bold=False), MUTED)
    return block


def _draw_pairs(
    block: Image.Image, matches: Matches, pairs: Sequence, side: int, corners: Sequence[tuple[int, int]]
) -> None:
    """Join the patches of each pair by a line between two numbered dots, the best pair on top."""
    large = Image.new("RGBA", (block.width * SMOOTH, block.height * SMOOTH))
    draw, radius = ImageDraw.Draw(large), 13 * SMOOTH
    font = text_font(15 * SMOOTH, bold=True)
    for number, pair in reversed(list(enumerate(pairs, 1))):
        colour = _COLOURS[number - 1]
        ends = [
            tuple(
                SMOOTH * (start + side * (place + 0.5) / count)
                for start, place, count in zip(corner, patch[::-1], matches.grid[::-1], strict=True)
            )
            for corner, patch in zip(corners, pair[:2], strict=True)
        ]
        draw.line(ends, fill=colour + "b0", width=3 * SMOOTH)
        for x, y in ends:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white", width=SMOOTH)
            draw.text((x, y), str(number), font=font, fill="white", anchor="mm")
    over = large.resize(block.size, Image.Resampling.BOX)
    block.paste(over, (0, 0), over)
