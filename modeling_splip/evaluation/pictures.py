"""Pictures for reports: retrieval grids, precision-recall curves and per-class bars, each saved whole or not at all."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps

HIT, MISS = "#1a7f37", "#cf222e"
INK, MUTED, LINE, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#f6f8fa"
PALETTE = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#59636e")
PHOTO_KINDS = ("png", "jpg", "webp")  # files of pictures with images in them
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
        hits: for every result whether it is relevant; None where nobody knows, then frames are plain.
        path: a .png, .jpg or .webp file; its folder is made if needed.
        titles: one line above every query, for example its class.
        captions: one line above every result.
        width: of the picture in pixels; the images share it.

    Raises:
        ValueError: no query, or lists of different lengths.
    """
    _check_rows(queries, results, hits, titles, captions)
    columns = max(max(map(len, results)), 1)
    margin, gap, split = 20, 10, 34
    cell = (width - 2 * margin - split - (columns - 1) * gap) // (columns + 1)
    if cell < 24:
        raise ValueError(f"width {width} leaves {cell} pixels for each of {columns} results: show fewer or widen it")
    size = int(np.clip(cell * 0.115, 11, 17))
    header = size + 12 if titles or captions else 0
    pitch = cell + header + (14 if header else gap)
    canvas = Image.new("RGB", (width, 2 * margin + len(queries) * pitch - (pitch - cell - header)), "white")
    draw = ImageDraw.Draw(canvas)
    for row, (query, photos) in enumerate(zip(queries, results, strict=True)):
        top = margin + row * pitch
        if titles:
            room = cell + split - gap if captions else width - 2 * margin
            _text(draw, (margin, top), titles[row], room, _font(size, bold=True), INK)
        _paste(canvas, _tile(query, cell, "white", LINE, 1), (margin, top + header))
        left = margin + cell + split
        rule = left - split // 2
        draw.line((rule, top + header + 6, rule, top + header + cell - 6), fill=LINE, width=1)
        known = hits[row] if hits is not None else [None] * len(photos)
        for column, (photo, hit) in enumerate(zip(photos, known, strict=True)):
            x = left + column * (cell + gap)
            if captions:
                _text(draw, (x, top), captions[row][column], cell, _font(size, bold=False), MUTED)
            frame = LINE if hit is None else HIT if hit else MISS
            tile = _tile(photo, cell, PAPER, frame, max(3, cell // 36))
            if hit is not None:
                _mark(tile, bool(hit))
            _paste(canvas, tile, (x, top + header))
    return _save(path, PHOTO_KINDS, lambda file, kind: canvas.save(file, {"jpg": "jpeg"}.get(kind, kind)))


def precision_recall_curve(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: PathLike, *, title: str = ""
) -> Path:
    """Save precision over recall, one line per name.

    Args:
        curves: name -> (recall, precision), fractions, as `curve` of `metrics.retrieval_metrics` gives them.
        path: a .png, .svg or .pdf file.
        title: a line above the axes.
    """
    if not curves:
        raise ValueError("curves is empty: give at least one name with its recall and precision")
    figure, axes = _figure(6.0, 4.2, title)
    for index, (name, (recall, precision)) in enumerate(curves.items()):
        if len(recall) != len(precision) or not len(recall):
            raise ValueError(f"curve {name!r} has {len(recall)} recalls and {len(precision)} precisions: one of each")
        style = ("-", "--", "-.", ":")[index // len(PALETTE) % 4]
        axes.plot(recall, precision, style, color=PALETTE[index % len(PALETTE)], linewidth=2, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="Recall", ylabel="Precision (interpolated)")
    axes.grid(color=LINE, linewidth=0.6)
    axes.legend(frameon=False, loc="best")
    return _save_figure(figure, path)


def per_class_bars(values: Mapping[str, float], path: PathLike, *, metric: str = "mAP@all", title: str = "") -> Path:
    """Save one bar per class, best first, with the mean over classes as a line.

    Args:
        values: class -> value, a fraction.
        path: a .png, .svg or .pdf file.
        metric: name of the value axis; title: a line above the axes.
    """
    if not values:
        raise ValueError("values is empty: give at least one class with its value")
    ranked = sorted(values.items(), key=lambda item: (item[1], item[0]))  # the last bar is drawn on top
    names, heights = [name for name, _ in ranked], [value for _, value in ranked]
    mean = float(np.mean(heights))
    figure, axes = _figure(6.0, 1.1 + 0.24 * len(ranked), title)
    axes.axvline(mean, color=PALETTE[1], linewidth=1.2, linestyle="--", zorder=0)
    bars = axes.barh(names, heights, color=PALETTE[0], height=0.72)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.bar_label(bars, fmt="%.3f", padding=4, fontsize=8, color=MUTED, bbox=paper)
    label = f"{metric} (dashed: mean over classes, {mean:.3f})"
    axes.set(xlim=(0, max(1.0, max(heights)) * 1.08), ylim=(-0.6, len(ranked) - 0.4), xlabel=label)
    axes.tick_params(axis="y", length=0)
    return _save_figure(figure, path)


def method_runs(
    values: Mapping[str, Mapping[str, Sequence[float]]], path: PathLike, *, metric: str, title: str = ""
) -> Path:
    """Save one line of dots per method: every run a dot, coloured by fold, and the mean as a bar.

    Args:
        values: method -> fold -> the value of every seed, fractions; the first method stands at the top.
        path: a .png, .svg or .pdf file.
        metric: name of the value axis; title: a line above the axes.
    """
    if not values:
        raise ValueError("values is empty: give at least one method with its runs")
    names = list(values)[::-1]
    figure, axes = _figure(6.0, 1.0 + 0.42 * len(names), title)
    for height, name in enumerate(names):
        for number, (fold, runs) in enumerate(values[name].items()):
            label = f"fold {fold}" if height == 0 else None
            spread = height + 0.14 * (number - (len(values[name]) - 1) / 2)
            axes.scatter(runs, [spread] * len(runs), s=18, color=PALETTE[number % len(PALETTE)], label=label)
        mean = float(np.mean([value for runs in values[name].values() for value in runs]))
        axes.plot([mean, mean], [height - 0.32, height + 0.32], color=INK, linewidth=1.6)
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(-0.6, len(names) - 0.4), xlabel=f"{metric} (bar: mean over runs)")
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return _save_figure(figure, path)


def _check_rows(
    queries: Sequence[Image.Image],
    results: Sequence[Sequence[Image.Image]],
    hits: Sequence[Sequence[bool]] | None,
    titles: Sequence[str] | None,
    captions: Sequence[Sequence[str]] | None,
) -> None:
    if not queries:
        raise ValueError("queries is empty: give at least one sketch with its results")
    for name, rows in (("results", results), ("hits", hits), ("titles", titles), ("captions", captions)):
        if rows is not None and len(rows) != len(queries):
            raise ValueError(f"{name} has {len(rows)} rows for {len(queries)} queries: give one per query")
    for name, rows in (("hits", hits), ("captions", captions)):
        for row, entries in enumerate(rows or ()):
            if len(entries) != len(results[row]):
                raise ValueError(f"{name} has {len(entries)} entries in row {row} for {len(results[row])} results")


def _tile(image: Image.Image, cell: int, background: str, frame: str, stroke: int) -> Image.Image:
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


def _paste(canvas: Image.Image, tile: Image.Image, corner: tuple[int, int]) -> None:
    canvas.paste(tile, corner, tile)


def _font(size: int, *, bold: bool) -> ImageFont.FreeTypeFont:
    """The font that travels with matplotlib, so that pictures are alike on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _text(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int, font: ImageFont.FreeTypeFont, fill: str
) -> None:
    """Write one line, cut with an ellipsis where it is wider than its column."""
    line = " ".join(text.split())
    kept = len(line)
    while kept > 1 and draw.textlength(line, font=font) > width:
        kept -= 1
        line = line[:kept].rstrip(" …") + "…"
    draw.text((corner[0] + 1, corner[1] + 2), line, font=font, fill=fill)


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    return figure, axes


def _save_figure(figure: Figure, path: PathLike) -> Path:
    # Without a date and random ids the same values give the same file.
    undated: dict[str, dict[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}

    def write(file: Path, kind: str) -> None:
        with matplotlib.rc_context({"svg.hashsalt": "splip"}):
            figure.savefig(file, format=kind, dpi=150, metadata=undated[kind])

    return _save(path, tuple(undated), write)


def _save(path: PathLike, kinds: tuple[str, ...], write: Callable[[Path, str], None]) -> Path:
    """Write aside, then rename: a crash never leaves half a picture."""
    target = Path(path)
    kind = target.suffix[1:].lower()
    if kind not in kinds:
        raise ValueError(
            f"cannot write {target}: expected a file name that ends in {', '.join('.' + k for k in kinds)}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".partial")
    try:
        write(aside, kind)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return target
