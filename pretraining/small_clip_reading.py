"""Photos and drawings for `small_clip`, read from public data sets in their usual form, or packed in a few files."""

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from modeling_splip.common.text import quoted, readable

from .small_clip_data import PAPER, SIZE, Pictures

MARGIN = 4  # pixels around a drawing of strokes
LAST_STROKE = 255
INK_SHARE = 0.15  # of a pixel's area: ink below it is lost when a drawing is made smaller
IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"}
META = ("names", "fine", "coarse", "drawings")
EVERYDAY_WORDS = Path(__file__).with_name("everyday_words.json")

T = TypeVar("T")
R = TypeVar("R")


def everyday_words() -> dict[str, str]:
    """Return everyday words of fine class names: {"tabby": "cat", ...}."""
    words = json.loads(EVERYDAY_WORDS.read_text("utf-8"))
    return {fine: word for word, fines in words.items() for fine in fines}


def read_packed(folder: Path) -> Pictures:
    """Return the pictures of a packed folder.

    It holds `photos-*.jpg`, mosaics of 64-pixel photos, filled row by row; `drawings.bin.gz`, drawings of 128 x 128
    bits, 1 is ink; and `meta.json`: `names`, for every photo `fine` and `coarse`, for every drawing `drawings`, all of
    them positions in `names` (`coarse` may be -1).

    Raises:
        OSError: a file is missing or cannot be read.
        ValueError: the files do not belong together.
    """
    meta = _read_meta(folder / "meta.json")
    files = sorted(folder.glob("photos-*.jpg"))
    if not files:
        raise FileNotFoundError(f"'{folder}' holds no photos-*.jpg: --packed wants mosaics of photos there.")
    count = len(meta["fine"])
    tiles = np.concatenate(_in_threads(_cut_mosaic, files))[:count]  # (N, 64, 64, 3)
    if len(tiles) < count:
        raise ValueError(f"'{folder}' holds {len(tiles)} photos, but its meta.json tells of {count}: copy it again.")
    photos = torch.from_numpy(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)))  # (N, 3, 64, 64)
    drawings = _read_bits(folder / "drawings.bin.gz", len(meta["drawings"]))
    labels = {key: torch.tensor(meta[key], dtype=torch.long) for key in META[1:]}
    return Pictures(meta["names"], photos, labels["fine"], labels["coarse"], drawings, labels["drawings"])


def _read_meta(file: Path) -> dict[str, Any]:
    meta = read_json(file)
    if not isinstance(meta, dict) or any(not isinstance(meta.get(key), list) for key in META):
        raise ValueError(f"'{file}' must be an object with the lists {quoted(META)}.")
    classes = len(meta["names"])
    for key, lowest in (("fine", 0), ("coarse", -1), ("drawings", 0)):
        if not all(isinstance(value, int) and lowest <= value < classes for value in meta[key]):
            raise ValueError(f"'{file}': every entry of '{key}' must be a position in its {classes} names.")
    if len(meta["fine"]) != len(meta["coarse"]):
        raise ValueError(f"'{file}' has {len(meta['fine'])} entries in 'fine' and {len(meta['coarse'])} in 'coarse'.")
    return meta


def _cut_mosaic(file: Path) -> np.ndarray:
    """Return the photos of a mosaic row by row, (n, 64, 64, 3) uint8."""
    mosaic = np.asarray(open_image(file).convert("RGB"))
    height, width = mosaic.shape[0] // SIZE, mosaic.shape[1] // SIZE
    if mosaic.shape != (height * SIZE, width * SIZE, 3) or not mosaic.size:
        raise ValueError(f"'{file}' is {mosaic.shape[1]} x {mosaic.shape[0]} pixels, which is no mosaic of {SIZE}.")
    rows = mosaic.reshape(height, SIZE, width, SIZE, 3)
    return rows.transpose(0, 2, 1, 3, 4).reshape(-1, SIZE, SIZE, 3)


def _read_bits(file: Path, count: int) -> Tensor:
    """Return `count` drawings as (count, 128, 128) uint8 with ink 1."""
    try:
        with gzip.open(file) as packed:
            bits = np.frombuffer(packed.read(), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"'{file}' cannot be read ({error}): copy it again.") from error
    if len(bits) != count * PAPER * PAPER // 8:
        held = len(bits) * 8 / PAPER**2
        raise ValueError(f"'{file}' holds {held:g} drawings, but the meta.json beside it tells of {count}.")
    return torch.from_numpy(np.unpackbits(bits).reshape(-1, PAPER, PAPER))


def read_photos(root: Path, names: Mapping[str, str], most: int, seed: int = 0) -> Pictures:
    """Return the photos of `<root>/<class>/`, cut to their middle square and made small.

    Args:
        root: holds a folder of images for every class; folders inside are looked into.
        names: folder name -> class name, where a folder's own name is no word (WordNet ids).
        most: photos of a class that are read at most, chosen by `seed`.

    Raises:
        OSError: there are no such folders, or an image cannot be read.
        ValueError: a folder is named by a WordNet id that `names` lacks.
    """
    folders = class_folders(root, "photos")
    ids = [folder.name for folder in folders if re.fullmatch(r"n\d{8}", folder.name) and folder.name not in names]
    if ids:
        raise ValueError(
            f"Folders of '{root}' have no words as names ({quoted(ids, 3)}): say them by --names FILE.json."
        )
    rng = np.random.default_rng(seed)
    chosen = [(file, folder.name) for folder in folders for file in _some(images_below(folder), most, rng)]
    photos = _in_threads(_small_photo, [file for file, _ in chosen])
    words = everyday_words()
    fine = [_class_name(names.get(folder, folder)) for _, folder in chosen]
    everyday = [words.get(name, "") for name in fine]
    known = sorted({*fine, *filter(None, everyday)})
    place = {name: index for index, name in enumerate(known)} | {"": -1}
    stacked = torch.from_numpy(np.stack(photos)).permute(0, 3, 1, 2).contiguous()  # (N, 3, 64, 64)
    return Pictures.of_photos(known, stacked, [place[name] for name in fine], [place[name] for name in everyday])


def _small_photo(file: Path) -> np.ndarray:
    image = open_image(file, draft=2 * SIZE).convert("RGB")
    return np.asarray(ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC))


def read_drawings(root: Path, most: int, seed: int = 0) -> Pictures:
    """Return the drawings of `<root>/*.ndjson` (Quick, Draw!) and of `<root>/<class>/` (images, dark on light).

    Args:
        root: holds either or both.
        most: drawings of a class that are read at most: the first that were recognised of an `.ndjson`, of a folder
            those chosen by `seed`.

    Raises:
        OSError: there is neither, or a file cannot be read.
        ValueError: a line of an `.ndjson` is no drawing.
    """
    listed = sorted(root.glob("*.ndjson")) if root.is_dir() else []
    folders = class_folders(root, "drawings") if not listed or any(map(Path.is_dir, root.iterdir())) else []
    drawings, drawn = [], []
    for found in _in_threads(partial(_read_ndjson, most=most), listed):
        drawings += [strokes for _, strokes in found]
        drawn += [name for name, _ in found]
    rng = np.random.default_rng(seed)
    chosen = [(file, folder.name) for folder in folders for file in _some(images_below(folder), most, rng)]
    drawings += _in_threads(_small_drawing, [file for file, _ in chosen])
    drawn += [_class_name(folder) for _, folder in chosen]
    if not drawings:
        raise FileNotFoundError(f"'{root}' holds no recognised drawing: --drawings wants .ndjson files or folders.")
    names = sorted(set(drawn))
    return Pictures.of_drawings(names, torch.from_numpy(np.stack(drawings)), [names.index(name) for name in drawn])


def _read_ndjson(file: Path, most: int) -> list[tuple[str, np.ndarray]]:
    """Return class name and stroke numbers of the first `most` recognised drawings of a Quick, Draw! file."""
    found: list[tuple[str, np.ndarray]] = []
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if len(found) == most:
                break
            try:
                drawing = json.loads(line)
                if drawing.get("recognized", True):
                    strokes = [np.asarray(stroke[:2], float).T for stroke in drawing["drawing"]]  # each (points, 2)
                    found.append((_class_name(drawing["word"]), draw_strokes(strokes)))
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(f"'{file}', line {number}, is no drawing of Quick, Draw! ({error!r}).") from error
    return found


def draw_strokes(strokes: Sequence[np.ndarray]) -> np.ndarray:
    """Return (128, 128) uint8, the numbers of strokes (points, 2) in any units, drawn as large as the paper allows."""
    points = np.concatenate(strokes)
    low, extent = points.min(0), float(np.ptp(points, axis=0).max()) or 1.0
    scale = (PAPER - 1 - 2 * MARGIN) / extent
    margins = (PAPER - 1 - scale * np.ptp(points, axis=0)) / 2  # the drawing lies in the middle
    paper = Image.new("L", (PAPER, PAPER), 0)
    pen = ImageDraw.Draw(paper)
    for number, stroke in enumerate(strokes, 1):
        line = [tuple(point) for point in (stroke - low) * scale + margins]
        ink = min(number, LAST_STROKE)
        pen.line(line if len(line) > 1 else line * 2, fill=ink, width=2)  # a point is a line to itself
    return np.asarray(paper)


def _small_drawing(file: Path) -> np.ndarray:
    """Return (128, 128) uint8 with ink 1: what is darker than half-way between the paper and the darkest line."""
    image = open_image(file).convert("RGBA")
    grey = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L"), np.float32)
    ink = grey < (np.median(grey) + grey.min()) / 2
    mask = ImageOps.pad(Image.fromarray(ink.astype(np.uint8) * 255), (PAPER, PAPER), Image.Resampling.BOX, color=0)
    return (np.asarray(mask) > INK_SHARE * 255).astype(np.uint8)


def read_json(file: Path) -> Any:
    """Return what a JSON file holds. Raises OSError, ValueError that name the file."""
    try:
        return json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise OSError(f"'{file}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ValueError(f"'{file}' is not JSON: {error}.") from error


def class_folders(root: Path, option: str) -> list[Path]:
    """Return the folders in `root`. Raises FileNotFoundError, which names that option, if no image is in any."""
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    if not any(map(images_below, folders)):
        raise FileNotFoundError(
            f"'{root}' holds no images in folders of classes: --{option} wants <class>/*.jpg there."
        )
    return folders


def images_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and in folders inside, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())


def _some(files: list[Path], most: int, rng: np.random.Generator) -> list[Path]:
    rows = rng.permutation(len(files))[:most]
    return [files[row] for row in sorted(rows)]


def open_image(file: Path, draft: int | None = None) -> Image.Image:
    """Return an image that is read to its end; a large JPEG is read at a smaller scale, not below `draft` pixels."""
    try:
        image = Image.open(file)
        if draft:
            image.draft("RGB", (draft, draft))
        image.load()
    except Exception as error:  # Pillow raises nearly anything on damaged files
        raise OSError(f"Image '{file}' cannot be read ({error}): remove it or copy it again.") from error
    return image


def _class_name(name: str) -> str:
    return readable(name).casefold()


def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, items))
