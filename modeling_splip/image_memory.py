"""How much memory pictures may take: tiles, few large pictures at once, rows in bands, and small ones made early."""

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

# A larger file is no picture of the pixels that may be decoded. Reading it may fill the memory.
MAX_BYTES = 2**30
# Pictures of more pixels are large: decoding takes up to 20 bytes a pixel, so only AT_ONCE pixels are in work at once.
LARGE = 1_000_000
AT_ONCE = 48_000_000
# Pixels of a band of rows: what copies an image in wider types does it band by band.
BAND = 1 << 20
# Tags of a TIFF file that decide how much memory decoding takes: sides, bits, samples, rows of a strip, plane, tile.
_TIFF_SIZES = frozenset({256, 257, 258, 277, 278, 284, 322, 323})
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class Room:
    """Pixels that may be in work at once; who comes first goes first."""

    def __init__(self, most: int):
        self._most, self._used = most, 0
        self._door, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for a picture, and keep it; small pictures need none."""
        if pixels <= LARGE:
            yield
            return
        with self._door, self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + pixels <= self._most)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


ROOM = Room(AT_ONCE)


def check_tiles(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise ValueError for a TIFF whose tile needs more memory than its picture may have.

    A tile is decoded whole, however small the picture is. Of a tag that is listed twice, PIL reads the last entry and
    the library below it the first one.
    """
    tags = _tiff_tags(data)
    if any(tags.count(tag) > 1 for tag in _TIFF_SIZES):
        raise ValueError("a TIFF that gives one of its sizes twice")
    width, length = (image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH))  # type: ignore[attr-defined]
    if width * length > max_pixels:
        raise ValueError(f"tiles of {width} x {length} pixels, more than {max_pixels:,d}")


def _tiff_tags(data: bytes) -> list[int]:
    """Return the tags of a TIFF's first directory, one for each entry."""
    order, big = ("<" if data[:2] == b"II" else ">"), 43 in data[2:4]
    try:
        (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
        first, step = (start + 8, 20) if big else (start + 2, 12)
        last = min(first + step * count, len(data) - 2)
        return [struct.unpack_from(f"{order}H", data, at)[0] for at in range(first, last, step)]
    except struct.error:
        raise ValueError("a TIFF that ends too soon") from None


def row_bands(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes of bands of rows, from top to bottom, of about `BAND` pixels each."""
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(top + rows, height)


def final_size(settings: Any, width: int, height: int) -> tuple[int, int] | None:
    """Return (width, height) that an image processor resizes a large image to; None if it is small or stays.

    Args:
        settings: the image processor; only the usual ways of resizing are known.
        width, height: of the image.
    """
    size = {key: value for key, value in dict(settings.size).items() if value}
    if width * height <= LARGE or not settings.do_resize:
        return None
    if size.keys() == {"height", "width"}:
        return size["width"], size["height"]
    if size.keys() != {"shortest_edge"}:
        return None
    short, long = size["shortest_edge"], int(size["shortest_edge"] * max(width, height) / min(width, height))
    return (short, long) if width <= height else (long, short)


def square(rgb: Image.Image, size: tuple[int, int] | None, resample: Any) -> Image.Image:
    """Return an image in the middle of a white square of its longer side, resized to `size`; None leaves it as it is.

    PIL resizes all rows to the new width first and all columns to the new height afterwards. So rows are padded and
    resized band by band, and the square, which may have any number of pixels, is never made.
    """
    side = max(rgb.size)
    above = (side - rgb.height) // 2
    narrow = Image.new("RGB", (size[0] if size else side, side), "white")
    for box in row_bands(side, rgb.height) if size else [(0, 0, side, rgb.height)]:
        part = rgb.crop((0, box[1], rgb.width, box[3]))
        if size:
            band = Image.new("RGB", (side, part.height), "white")
            band.paste(part, ((side - rgb.width) // 2, 0))
            narrow.paste(band.resize((size[0], part.height), resample), (0, above + box[1]))
        else:
            narrow.paste(part, ((side - rgb.width) // 2, above))
    return narrow.resize(size, resample) if size else narrow
